"""Group the runs that may be compared: those of one scale, one corpus and the same other overrides."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from asr.config.naming import EXECUTION_KEYS, NOT_COMPARED
from asr.metrics import Scored
from asr.reporting.claims import Claim, Variant
from asr.reporting.experiments import Experiment
from asr.reporting.intervals import Errors, count_errors
from asr.reporting.published import published
from asr.reporting.runs import StoredRun
from asr.settings import differences, within

AS_PUBLISHED = ("data.root", "device", "precision", "deterministic")  # leave an experiment what it is
KEPT_SHARES = {"train": 0.5, "dev": 0.0, "test": 1.0}  # the writeup's filters keep 53 to 62 % of a training part
SEED_KEYS = ("seed", "init_from")  # init_from names the first stage's checkpoint of the same seed
EXAMPLES = 5  # utterances a test part


@dataclass(frozen=True)
class Group:
    """Runs that belong together.

    finished:    all that finished, the newest first
    experiments: those that a group may have, in the order of the report
    """

    overrides: tuple[str, ...]
    finished: list[StoredRun]
    experiments: Mapping[str, Experiment]

    @cached_property
    def runs(self) -> dict[Variant, StoredRun]:
        """Return the newest run of each variant, in the order of the experiments."""
        newest = {run.variant: run for run in reversed(self.finished)}
        order = list(self.experiments)
        variants = sorted(newest, key=lambda v: (order.index(v.experiment), v != self.own(v.experiment), v))
        return {variant: newest[variant] for variant in variants}

    @cached_property
    def seeds(self) -> dict[Variant, list[StoredRun]]:
        """Return the runs of each variant that are equal but for the seed, the newest of each seed."""
        of_seeds: dict[Variant, dict[str, StoredRun]] = {variant: {} for variant in self.runs}
        for run in self.finished:
            if set(differing_settings(self.runs[run.variant], run)) <= {*SEED_KEYS, "commit"}:
                of_seeds[run.variant].setdefault(run.params.get("seed", ""), run)
        return {variant: list(runs.values()) for variant, runs in of_seeds.items()}

    @property
    def repeats(self) -> dict[Variant, int]:
        """Return the variants with finished runs that are not shown, and how many runs each has."""
        counted = Counter(run.variant for run in self.finished)
        return {variant: count for variant, count in counted.items() if count > len(self.seeds[variant])}

    def own(self, experiment: str) -> Variant:
        """Return the experiment as it is configured."""
        return Variant(experiment, self.experiments[experiment].augment)

    def label(self, variant: Variant) -> str:
        """Name a variant by its experiment and, unless it is the experiment's own, its augmentation."""
        is_own = variant == self.own(variant.experiment)
        return variant.experiment if is_own else f"{variant.experiment} with {variant.augment}"

    def counts(self, variant: Variant, part: str, measure: str) -> Errors | None:
        """Return the errors of a variant on a part, or None if there is no such run or it was not scored on it.

        Seeds that were scored on other utterances than the newest run are left out.
        """
        seeds = [run.scored[part] for run in self.seeds.get(variant, []) if part in run.scored]
        same = [scored for scored in seeds if _references(scored) == _references(seeds[0])]
        return count_errors(same, measure) if same else None

    def resampling_notes(self, part: str) -> list[str]:
        """Describe what the intervals of a part resample, and why they may be unreliable."""
        counted = [one for variant in self.runs if (one := self.counts(variant, part, "cer"))]
        return list(dict.fromkeys(one.levels + (f" ({one.warning})" if one.warning else "") for one in counted))

    def shown(self, experiments: Sequence[str]) -> list[Variant]:
        """Return these experiments, run or not, then what else was run."""
        return list(dict.fromkeys([*map(self.own, experiments), *self.runs]))

    @property
    def test_parts(self) -> list[str]:
        """Return the test parts of any of the runs."""
        return sorted({part for run in self.runs.values() for part in run.scored})

    def command(self, *overrides: str) -> str:
        """Return the command of a run that would belong to this group."""
        return shlex.join(["python", "-m", "asr.train", *overrides, *self.overrides])

    def command_of(self, variant: Variant) -> str:
        """Return the command that trains a variant as a run of this group."""
        chosen = [] if variant == self.own(variant.experiment) else [f"augment={variant.augment}"]
        return self.command(f"experiment={variant.experiment}", *chosen)

    def commands(self, claim: Claim) -> list[str]:
        """Return what trains a claim's runs: its sweep, or a command for each run that is missing."""
        missing = dict.fromkeys(sample.variant for sample in claim.samples if sample.variant not in self.runs)
        return [self.command(f"sweep={claim.sweep}")] if claim.sweep else list(map(self.command_of, missing))

    @property
    def scale(self) -> str:
        """Return the choice of scale=, full or mini."""
        return _values(self.overrides).get("scale", "full")

    @property
    def root(self) -> Path:
        """Return the folder that holds the corpus."""
        return Path(next(iter(self.runs.values())).params.get("data.root", "unknown"))

    @property
    def name(self) -> str:
        """Return scale, corpus and other overrides, for headings and legends."""
        others = [o for o in self.overrides if o.partition("=")[0] not in ("scale", "data.root")]
        return ", ".join([f"{self.scale} scale", f"corpus '{self.root.name}'", *others])

    @property
    def is_synthetic(self) -> bool:
        """Return whether eSpeak NG spoke the corpus, by its generator's file; by its name if it is not on this disk."""
        return any(self.root.glob("*/synthetic.json")) if self.root.is_dir() else self.root.name == "synthetic"

    @property
    def parts(self) -> list[dict[str, Any]]:
        """Return how much is used of each part in each role, as in plan.json."""
        used = {(part["role"], part["source"]): part for run in self.runs.values() for part in run.plan["parts"]}
        order = list(KEPT_SHARES)
        return [used[key] for key in sorted(used, key=lambda key: (order.index(key[0]), key[1]))]

    @property
    def is_full(self) -> bool:
        """Return whether it ran as in the writeup: whole test parts of LibriSpeech, and all that the filters leave."""
        sizes = published()["librispeech"]
        return (
            all(key in AS_PUBLISHED for key in _values(self.overrides))
            and not self.is_synthetic
            and all(
                part["source"] in sizes
                and part["utterances"] >= KEPT_SHARES[part["role"]] * sizes[part["source"]]["utterances"]
                for part in self.parts
            )
        )

    def examples(self, part: str) -> list[dict[str, Scored]]:
        """Return a few utterances, spread evenly over the ids, as each experiment as configured heard them."""
        texts = {
            variant.experiment: {one.id: one for one in run.scored[part]}
            for variant, run in self.runs.items()
            if part in run.scored and variant == self.own(variant.experiment)
        }
        shared = sorted(set.intersection(*map(set, texts.values()))) if texts else []
        places = np.linspace(0, len(shared) - 1, min(EXAMPLES, len(shared))).round().astype(int)
        return [{name: scored[shared[place]] for name, scored in texts.items()} for place in places]


def group_runs(runs: Sequence[StoredRun], experiments: Mapping[str, Experiment]) -> tuple[list[Group], list[StoredRun]]:
    """Return groups of the experiments' runs, the largest first, and the runs of other experiments or of none.

    runs: the newest first
    """
    by_key: dict[tuple[str, ...], list[StoredRun]] = defaultdict(list)
    others: list[StoredRun] = []
    for run in runs:
        same = by_key[group_key(run.plan["overrides"])] if run.variant.experiment in experiments else others
        same.append(run)
    groups = [Group(key, finished, experiments) for key, finished in by_key.items()]
    return sorted(groups, key=lambda group: (-len(group.runs), group.overrides)), others


def group_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides without those that differ within a group or change only how a run is carried out.

    init_from is left out, as a second stage names the first one's checkpoint; init_from=null, no first stage, counts.
    """
    return tuple(
        sorted(
            f"{key}={value}"
            for key, value in _values(overrides).items()
            if key not in ("experiment", "augment", "sweep", "seed")
            and not within(key, EXECUTION_KEYS)
            and (key != "init_from" or value == "null")
            and (key, value) != ("scale", "full")
        )
    )


def differing_settings(first: StoredRun, second: StoredRun) -> list[str]:
    """Return the settings in which two runs differ and that can change a result, and "commit" if their code differs.

    Where the choice of a group differs, it is named instead of its settings, except for the learning rate, which means
    the same for all optimizers.
    """
    one, other = ({**run.params, "commit": run.commit} for run in (first, second))
    differing = differences(one, other, ignore=(*NOT_COMPARED, "experiment"))
    keys = [difference.partition(":")[0] for difference in differing]
    return [key for key in keys if key == "optimizer.lr" or not within(key, [group for group in keys if group != key])]


def _references(scored: Sequence[Scored]) -> set[tuple[str, str]]:
    return {(one.id, one.reference) for one in scored}


def _values(overrides: Sequence[str]) -> dict[str, str]:
    """Return the last value of each key, as Hydra takes it; + and ++ of a new key belong to the key."""
    return {key: value for key, _, value in (override.partition("=") for override in overrides)}
