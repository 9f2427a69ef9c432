"""Compute and write the numbers in the report's tables."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from asr.metrics import Scored
from asr.reporting.analysis import Interval, Resampling, corpus_rate, counts_of, mean_rate
from asr.reporting.claims import Comparison, Variant
from asr.reporting.groups import Group
from asr.reporting.published import PublishedRates, published_runs
from asr.reporting.tracked import StoredRun

EXAMPLES = 5  # utterances a test part
PACKAGES = ("python", "torch", "torchaudio", "lhotse", "audiomentations", "hydra-core", "mlflow", "jiwer", "numpy")


class Example(NamedTuple):
    """An utterance of a test part, and what each experiment heard."""

    id: str
    reference: str
    heard: dict[str, Scored]


def shown_variants(group: Group, experiments: Sequence[str]) -> list[Variant]:
    """Return these experiments, run or not, then what else was run."""
    first = [group.own(name) for name in experiments]
    return first + [variant for variant in group.all_newest if variant not in first]


def result_rates(run: StoredRun, part: str, resampling: Resampling) -> list[Interval]:
    """Return CER and WER as means over utterances, then CER and WER of the corpus."""
    characters = counts_of({one.id: one.characters for one in run.scored[part]})
    words = counts_of({one.id: one.words for one in run.scored[part]})
    return [rate(counts, resampling) for rate in (mean_rate, corpus_rate) for counts in (characters, words)]


def published_rates(group: Group, variant: Variant, part: str) -> PublishedRates | None:
    """Return what the writeup reached with the experiment as it is configured, if it says so."""
    published = published_runs().get(variant.experiment) if variant == group.own(variant.experiment) else None
    return published.rates.get(part) if published else None


def compared_cers(comparison: Comparison, experiment: str, group: Group) -> list[str]:
    """Return the CERs of an experiment, for each part with each augmentation."""
    runs = {augment: group.newest(Variant(experiment, augment)) for augment in comparison.augments}
    return [
        f"{100 * run.results[part].characters.rate:.1f} %" if run and part in run.results else "not run"
        for part in comparison.parts
        for run in runs.values()
    ]


def cost(run: StoredRun) -> list[str]:
    """Return utterances seen, hours heard, wall time, and seconds of speech per second of training."""
    utterances, heard = run.total("train_utterances"), run.total("train_audio_seconds")
    training, dev = run.total("train_wall_seconds"), run.total("dev_wall_seconds")
    return [
        "-" if utterances is None else f"{utterances:,.0f}",
        "-" if heard is None else f"{heard / 3600:.2f}",
        "-" if training is None or dev is None else duration(training + dev),
        "-" if heard is None or not training else f"{heard / training:.1f}",
    ]


def duration(seconds: float) -> str:
    """Write seconds as minutes, or as hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds / 60:.1f} min"


def examples(group: Group, part: str) -> list[Example]:
    """Return a few utterances, spread evenly over the ids, as each experiment as configured heard them."""
    texts = {
        variant.experiment: {one.id: one for one in run.scored[part]}
        for variant, run in group.all_newest.items()
        if part in run.scored and variant == group.own(variant.experiment)
    }
    shared = sorted(set.intersection(*map(set, texts.values()))) if texts else []
    places = np.linspace(0, len(shared) - 1, min(EXAMPLES, len(shared))).round().astype(int)
    heard = [(id, {name: scored[id] for name, scored in texts.items()}) for id in (shared[place] for place in places)]
    return [Example(id, next(iter(by_name.values())).reference, by_name) for id, by_name in heard]


def versions(runs: Iterable[StoredRun]) -> dict[str, str]:
    """Return the versions of the packages that matter, with how many runs had each where they differ."""
    found = {name: Counter(run.packages.get(name, "not installed") for run in runs) for name in PACKAGES}
    return {
        name: ", ".join(version if len(counted) == 1 else f"{version} ({n} runs)" for version, n in counted.items())
        for name, counted in found.items()
    }


def limits(interval: Interval, sign: str = "") -> str:
    """Write the limits of an interval in percent; nothing where there are none. sign: "+" to show it."""
    low, high = (f"{100 * limit:{sign}.1f}" for limit in (interval.low, interval.high))
    return "" if math.isnan(interval.low) else f"{low} to {high}"


FUNCTIONS = (shown_variants, result_rates, published_rates, compared_cers, cost, duration, examples, versions, limits)
