"""Group the runs that may be compared: those of one scale, one corpus and the same other overrides."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from asr.config.naming import EXECUTION_KEYS, NOT_COMPARED
from asr.reporting.claims import Comparison, Variant
from asr.reporting.experiments import Experiment
from asr.reporting.published import librispeech
from asr.reporting.tracked import StoredRun
from asr.settings import differences, within

AS_PUBLISHED = ("data.root", "seed", "device", "precision", "deterministic")  # leave an experiment what it is
KEPT_SHARE = 0.5  # the writeup's filters keep 53 to 62 % of a training part's utterances


@dataclass(frozen=True)
class Group:
    """Runs that belong together.

    runs:        of each variant all finished ones, the newest first
    experiments: those that a group may have, in the order of the report
    """

    overrides: tuple[str, ...]
    runs: dict[Variant, list[StoredRun]]
    experiments: Mapping[str, Experiment]

    def own(self, experiment: str) -> Variant:
        """Return the experiment as it is configured."""
        return Variant(experiment, self.experiments[experiment].augment)

    def label(self, variant: Variant) -> str:
        """Name a variant by its experiment and, unless it is the experiment's own, its augmentation."""
        is_own = variant == self.own(variant.experiment)
        return variant.experiment if is_own else f"{variant.experiment} with {variant.augment}"

    def newest(self, variant: Variant) -> StoredRun | None:
        """Return the variant's newest run."""
        return next(iter(self.runs.get(variant, [])), None)

    def stage_before(self, run: StoredRun) -> StoredRun | None:
        """Return the run whose best checkpoint this one started from, if it is in the group."""
        started_from = run.params.get("init_from")
        return next(
            (r for r in self.all_newest.values() if f"{r.params.get('output_dir')}/best.pt" == started_from), None
        )

    def can_show(self, comparison: Comparison) -> bool:
        """Return whether enough of a comparison was run to compare anything."""
        return sum(variant in self.runs for variant in comparison.variants) > 1

    @property
    def all_newest(self) -> dict[Variant, StoredRun]:
        """The newest run of each variant, in the order of the experiments."""
        order = list(self.experiments)
        variants = sorted(self.runs, key=lambda v: (order.index(v.experiment), v != self.own(v.experiment), v))
        return {variant: self.runs[variant][0] for variant in variants}

    @property
    def repeats(self) -> list[str]:
        """Variants with more than one finished run, and how many."""
        return [f"{self.label(variant)} ({len(runs)})" for variant, runs in self.runs.items() if len(runs) > 1]

    @property
    def parts(self) -> list[str]:
        """The test parts of any of the runs."""
        return sorted({part for run in self.all_newest.values() for part in run.scored})

    def command(self, *overrides: str) -> str:
        """Return the command of a run that would belong to this group."""
        return shlex.join(["python", "-m", "asr.train", *overrides, *self.overrides])

    def command_of(self, variant: Variant) -> str:
        """Return the command that trains a variant as a run of this group."""
        chosen = [] if variant == self.own(variant.experiment) else [f"augment={variant.augment}"]
        return self.command(f"experiment={variant.experiment}", *chosen)

    @property
    def scale(self) -> str:
        """full or mini."""
        return _values(self.overrides).get("scale", "full")

    @property
    def corpus(self) -> str:
        """The last folder of the corpus's root."""
        return PurePath(next(iter(self.all_newest.values())).params.get("data.root", "unknown")).name

    @property
    def is_synthetic(self) -> bool:
        """Return whether the corpus is spoken by eSpeak NG."""
        return "synthetic" in self.corpus

    @property
    def name(self) -> str:
        """Scale, corpus and other overrides, for headings and legends."""
        others = [o for o in self.overrides if o.partition("=")[0] not in ("scale", "data.root")]
        return f"{self.scale} scale, corpus '{self.corpus}'" + "".join(f", {other}" for other in others)

    def kept_parts(self, roles: Sequence[str]) -> dict[str, tuple[int, float]]:
        """Return utterances and hours that are used of each part in these roles."""
        plans = [run.plan for run in self.all_newest.values()]
        return {p.source: (p.utterances, p.hours) for plan in plans for p in plan.parts if p.role in roles}

    @property
    def is_full(self) -> bool:
        """Return whether it ran as in the writeup: whole test parts of LibriSpeech, and all that the filters leave."""
        sizes, test, train = librispeech(), self.kept_parts(["test"]), self.kept_parts(["train"])
        return (
            all(key in AS_PUBLISHED for key in _values(self.overrides))
            and not self.is_synthetic
            and all(part in sizes for part in test | train)
            and all(count == sizes[part].utterances for part, (count, _) in test.items())
            and all(count >= KEPT_SHARE * sizes[part].utterances for part, (count, _) in train.items())
        )


def group_runs(runs: Sequence[StoredRun], experiments: Mapping[str, Experiment]) -> tuple[list[Group], list[StoredRun]]:
    """Return groups of the experiments' runs, the largest first, and the runs of other experiments or of none.

    runs: the newest first
    """
    groups: dict[tuple[str, ...], dict[Variant, list[StoredRun]]] = {}
    others = []
    for run in runs:
        if run.experiment in experiments:
            variants = groups.setdefault(group_key(run.plan.overrides), {})
            variants.setdefault(Variant(run.experiment, run.augment), []).append(run)
        else:
            others.append(run)
    by_size = sorted(groups, key=lambda key: (-len(groups[key]), key))
    return [Group(key, groups[key], experiments) for key in by_size], others


def group_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides without those that differ within a group or change only how a run is carried out.

    init_from is left out, as a second stage names the first one's checkpoint; init_from=null, no first stage, counts.
    """
    return tuple(
        sorted(
            f"{key}={value}"
            for key, value in _values(overrides).items()
            if key not in ("experiment", "augment", "sweep")
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


def _values(overrides: Sequence[str]) -> dict[str, str]:
    """Return the last value of each key, as Hydra takes it; + and ++ of a new key belong to the key."""
    return {key: value for key, _, value in (override.partition("=") for override in overrides)}
