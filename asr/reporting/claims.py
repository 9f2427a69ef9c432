"""Read and check the claims of conf/claims/NAME.yaml; conf/claims/writeup.yaml explains the fields."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr.errors import InputError, first_line
from asr.reporting.experiments import Experiment, find_option, load_experiment

Kind = StrEnum("Kind", ["finding", "hypothesis"])
Rule = StrEnum("Rule", ["mean", "each", "failure"])
Measure = StrEnum("Measure", ["cer", "wer", "mean_cer", "mean_wer"])


class Variant(NamedTuple):
    """An experiment with an augmentation."""

    experiment: str
    augment: str


@dataclass
class Sample:
    """The transcripts of a test part by the newest run of an experiment with an augmentation."""

    experiment: str = MISSING
    augment: str = ""
    part: str = ""

    @property
    def variant(self) -> Variant:
        """Return the run's experiment and augmentation."""
        return Variant(self.experiment, self.augment)


@dataclass
class Pair:
    """Two samples, of which the claim says that the first has the higher error rate."""

    worse: Sample = field(default_factory=Sample)
    better: Sample = field(default_factory=Sample)

    @property
    def samples(self) -> tuple[Sample, Sample]:
        """Return both samples, the worse one first."""
        return self.worse, self.better

    @property
    def is_paired(self) -> bool:
        """Return whether both are scored on the same utterances."""
        return self.worse.part == self.better.part

    @property
    def name(self) -> str:
        """Return a name for a pair that gets a verdict of its own."""
        if self.worse.variant == self.better.variant:
            return self.worse.experiment
        worse, better = (f"{sample.experiment} {sample.augment}" for sample in self.samples)
        return f"{worse} ({self.worse.part}) against {better} ({self.better.part})"


@dataclass
class Claim:
    """A claim as its file states it."""

    text: str = MISSING
    kind: Kind = MISSING
    rule: Rule = MISSING
    pairs: list[Pair] = MISSING
    parts: list[str] = field(default_factory=list)
    measure: Measure = Measure.cer
    sweep: str | None = None

    @property
    def test_parts(self) -> list[str]:
        """Return the test parts that its pairs are scored on."""
        return self.parts or [sample.part for sample in self.samples]

    @property
    def questions(self) -> dict[str, list[Pair]]:
        """Return the pairs that get one verdict together: all on a part, or each alone where it names its own parts."""
        if not self.parts:
            return {pair.name: [pair] for pair in self.pairs}
        return {
            part: [Pair(*(replace(sample, part=part) for sample in pair.samples)) for pair in self.pairs]
            for part in self.parts
        }

    @property
    def samples(self) -> list[Sample]:
        """Return every sample of every pair."""
        return [sample for pair in self.pairs for sample in pair.samples]


@dataclass
class Comparison:
    """Experiments by augmentations, on test parts."""

    title: str = MISSING
    experiments: list[str] = MISSING
    augments: list[str] = MISSING
    parts: list[str] = MISSING

    @property
    def variants(self) -> list[Variant]:
        """Return every experiment with every augmentation."""
        return [Variant(experiment, augment) for experiment in self.experiments for augment in self.augments]


@dataclass
class Claims:
    """A file of claims.

    experiments: those whose results are shown whether they were run or not
    known:       every experiment that the file names, in the order of the report
    """

    claims: dict[str, Claim] = MISSING
    experiments: list[str] = field(default_factory=list)
    comparisons: dict[str, Comparison] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known: dict[str, Experiment] = {}


def read_claims(config: DictConfig) -> Claims:
    """Read the group `claims` of a config.

    Samples that name no augmentation get that of their experiment.
    raises: InputError for a field that is missing, unknown or of a wrong value, and for an experiment, an augmentation
            or a sweep that conf/ does not have
    """
    try:
        claims: Claims = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Claims), config))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        where = f" ({error.full_key})" if error.full_key else ""
        raise InputError(
            f"claims{where}: {first_line(error)}. conf/claims/writeup.yaml explains the fields of a file of claims"
        ) from error
    if not claims.claims:
        raise InputError("claims: the file states none; conf/claims/writeup.yaml is an example")
    named = [sample.experiment for claim in claims.claims.values() for sample in claim.samples]
    compared = [name for comparison in claims.comparisons.values() for name in comparison.experiments]
    for name in dict.fromkeys([*claims.experiments, *compared, *named]):
        claims.known[name] = load_experiment(name, "claims")
    claims.experiments = claims.experiments or list(dict.fromkeys(named))
    for name, claim in claims.claims.items():
        _check(name, claim)
        for sample in claim.samples:
            sample.augment = sample.augment or claims.known[sample.experiment].augment
            find_option("augment", sample.augment, f"claims ({name})")
    for name, comparison in claims.comparisons.items():
        for augment in comparison.augments:
            find_option("augment", augment, f"claims ({name})")
    return claims


def _check(name: str, claim: Claim) -> None:
    if not claim.pairs:
        raise InputError(f"claims ({name}): pairs is empty; name at least one pair of runs, worse and better")
    if any(bool(sample.part) == bool(claim.parts) for sample in claim.samples):
        raise InputError(
            f"claims ({name}): the test parts must be named once: either by parts, for all pairs, or by part in each "
            "worse and better"
        )
    if claim.rule == Rule.failure and claim.measure != Measure.cer:
        raise InputError(
            f"claims ({name}): measure={claim.measure}: the rule failure goes by the CER, since a WER of 100 % may be "
            "that of a model that learns; leave measure out, or take the rule mean or each"
        )
    if claim.sweep:
        find_option("sweep", claim.sweep, f"claims ({name})")


def check_parts(claims: Claims, known: Sequence[str]) -> None:
    """Raise InputError for a test part of a claim or comparison that is none of these."""
    named = [(name, part) for name, claim in claims.claims.items() for part in claim.test_parts]
    named += [(name, part) for name, comparison in claims.comparisons.items() for part in comparison.parts]
    for name, part in named:
        if part not in known:
            raise InputError(
                f"claims ({name}): there is no test part {part!r}: no run was scored on it, and LibriSpeech has none "
                f"of this name. Name one of these: {', '.join(known)}"
            )
