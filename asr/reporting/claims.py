"""What the writeup found and what may explain it, as claims that runs can support or contradict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from asr.reporting.analysis import (
    FAILED_RATE,
    Counts,
    Interval,
    Resampling,
    Verdict,
    corpus_rate,
    counts_of,
    failure_verdict,
    paired_difference,
    unpaired_difference,
    verdict_of,
    verdict_of_all,
)
from asr.reporting.groups import EXP3_VARIANTS, WRITEUP, Group, Variant, differing_settings

CLEAN, OTHER = "test-clean", "test-other"


class Sample(NamedTuple):
    """A model's transcripts of a test part."""

    variant: Variant
    part: str


class Contrast(NamedTuple):
    """Two samples of which the claim says that the first has the higher CER."""

    worse: Sample
    better: Sample

    @property
    def is_paired(self) -> bool:
        """Whether both are scored on the same utterances."""
        return self.worse.part == self.better.part


class Question(NamedTuple):
    """Contrasts that together get one verdict.

    rule: "mean" goes by their mean difference, "each" asks that each of them holds, "failure" that the first model of
          each failed and the second learned
    """

    name: str
    contrasts: tuple[Contrast, ...]
    rule: Literal["mean", "each", "failure"] = "mean"


class Claim(NamedTuple):
    """sweep: the choice of sweep= that trains all that the claim needs."""

    name: str
    text: str
    kind: Literal["finding", "hypothesis"]
    sweep: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Outcome:
    """A contrast's corpus CERs, None where the run is missing, and their difference.

    differs: names of what differs between the two samples, as far as it can change a result
    """

    contrast: Contrast
    worse: Interval | None
    better: Interval | None
    differs: list[str]
    difference: Interval | None = None

    @property
    def both_failed(self) -> bool:
        """Whether neither model learned, so that their difference says nothing."""
        return all(rate is not None and rate.value >= FAILED_RATE for rate in (self.worse, self.better))


@dataclass(frozen=True)
class Answer:
    """The verdict on a question.

    mean: where the rule is the mean of several contrasts, that of those in which not both models failed
    """

    question: Question
    verdict: Verdict
    outcomes: list[Outcome]
    mean: Interval | None = None
    problem: str = ""


def _on_each_part(*pairs: tuple[Variant, Variant], rule: Literal["mean", "failure"] = "mean") -> tuple[Question, ...]:
    return tuple(
        Question(part, tuple(Contrast(Sample(worse, part), Sample(better, part)) for worse, better in pairs), rule)
        for part in (CLEAN, OTHER)
    )


def _made_exp3_fail(saved: Variant) -> tuple[Question, ...]:
    """saved: exp3 without what is said to have made it fail."""
    return _on_each_part((Variant.of("exp3"), saved), rule="failure")


def _with_both_augments(*experiments: tuple[str, str]) -> list[tuple[Variant, Variant]]:
    return [
        (Variant(worse, augment), Variant(better, augment))
        for worse, better in experiments
        for augment in ("wave_spec", "wave_spec_no_noise")
    ]


def _on_clean(worse: str, better: str) -> Contrast:
    return Contrast(Sample(Variant.of(worse), CLEAN), Sample(Variant.of(better), CLEAN))


CLAIMS = (
    Claim(
        "exp2 beats exp1",
        "exp2, after both of its stages, makes fewer errors than exp1 (writeup: test-clean CER 16 % against 39 %).",
        "finding",
        "writeup",
        (Question(CLEAN, (_on_clean("exp1", "exp2_other"),)),),
    ),
    Claim(
        "exp3 is the worst",
        "exp3 makes more errors than exp1 and than exp2 after both stages (writeup: test-clean CER 71 % against 39 % "
        "and 16 %).",
        "finding",
        "writeup",
        (Question(CLEAN, (_on_clean("exp3", "exp1"), _on_clean("exp3", "exp2_other")), "each"),),
    ),
    Claim(
        "other is harder than clean",
        "The test part other has more errors than clean (writeup: CER 27 % against 16 % for exp2; for exp3 it is the "
        "other way round, 68 % against 71 %). Two parts are two sets of utterances, so the samples are not paired.",
        "finding",
        "writeup",
        tuple(
            Question(name, (Contrast(Sample(Variant.of(name), OTHER), Sample(Variant.of(name), CLEAN)),))
            for name in WRITEUP
        ),
    ),
    Claim(
        "H1a: noise made exp3 fail",
        "exp3 failed because Gaussian noise on top of hard speech is too much (the writeup's guess): without the noise "
        "it learns.",
        "hypothesis",
        "hypotheses",
        _made_exp3_fail(Variant("exp3", "wave_spec_no_noise")),
    ),
    Claim(
        "H1b: noise costs accuracy",
        "Where a model learns, it has a higher CER if it was trained with Gaussian noise than without.",
        "hypothesis",
        "hypotheses",
        _on_each_part(*((Variant(e, "wave_spec"), Variant(e, "wave_spec_no_noise")) for e in EXP3_VARIANTS)),
    ),
    Claim(
        "H2a: SGD made exp3 fail",
        "exp3 failed because it was trained by SGD and not by Adam (the writeup's guess): with Adam, at the same "
        "learning rates, it learns.",
        "hypothesis",
        "hypotheses",
        _made_exp3_fail(Variant.of("exp3_adam")),
    ),
    Claim(
        "H2b: SGD costs accuracy",
        "SGD has a higher CER than Adam, on average over two schedules: exp3's cyclic one at the same learning rates, "
        "and the one-cycle schedule at exp1's rates for SGD and exp2's for Adam.",
        "hypothesis",
        "hypotheses",
        _on_each_part(*_with_both_augments(("exp3", "exp3_adam"), ("exp3_sgd_one_cycle", "exp3_adam_one_cycle"))),
    ),
    Claim(
        "H3a: its schedule made exp3 fail",
        "exp3 failed because of its learning rates, cyclic from 6e-4 and soon close to 1e-4 (a guess from the "
        "published logs): with exp1's schedule, one cycle up to 0.01, it learns.",
        "hypothesis",
        "hypotheses",
        _made_exp3_fail(Variant.of("exp3_sgd_one_cycle")),
    ),
    Claim(
        "H3b: exp3's schedule costs accuracy",
        "exp3's schedule gives a higher CER than the one-cycle schedules, exp1's for SGD and exp2's for Adam, on "
        "average over both optimizers.",
        "hypothesis",
        "hypotheses",
        _on_each_part(*_with_both_augments(("exp3", "exp3_sgd_one_cycle"), ("exp3_adam", "exp3_adam_one_cycle"))),
    ),
    Claim(
        "TimeInversion hurts",
        "Playing some training utterances backwards raises the CER of exp2's first stage (the writeup tried and "
        "dropped it: impossible to listen to).",
        "hypothesis",
        "failures",
        _on_each_part((Variant("exp2_clean", "time_inversion"), Variant("exp2_clean", "wave_spec"))),
    ),
)


def answers(claim: Claim, group: Group, resampling: Resampling) -> list[Answer]:
    """An answer to each of the claim's questions, from the runs of a group."""
    return [_answer(question, group, resampling) for question in claim.questions]


def _answer(question: Question, group: Group, resampling: Resampling) -> Answer:
    found = [(c, _counts(group, c.worse), _counts(group, c.better)) for c in question.contrasts]
    outcomes = [
        Outcome(c, _rate(worse, resampling), _rate(better, resampling), _differs(group, c))
        for c, worse, better in found
    ]
    try:
        outcomes = [
            replace(outcome, difference=_difference(contrast, worse, better, resampling))
            for outcome, (contrast, worse, better) in zip(outcomes, found, strict=True)
        ]
        told = [
            (w, b) for outcome, (_, w, b) in zip(outcomes, found, strict=True) if w and b and not outcome.both_failed
        ]
        mean = paired_difference(told, resampling) if question.rule == "mean" and len(found) > 1 and told else None
    except ValueError as error:
        return Answer(question, Verdict.NOT_TESTABLE, outcomes, problem=str(error))
    return Answer(question, _verdict(question, outcomes, mean), outcomes, mean)


def _verdict(question: Question, outcomes: Sequence[Outcome], mean: Interval | None) -> Verdict:
    verdicts = [outcome_verdict(question, outcome) for outcome in outcomes]
    if Verdict.NOT_TESTABLE in verdicts:
        return Verdict.NOT_TESTABLE
    return verdict_of(mean) if mean else verdict_of_all(verdicts)


def outcome_verdict(question: Question, outcome: Outcome) -> Verdict:
    """Of one of the question's contrasts on its own."""
    if outcome.difference is None or outcome.worse is None or outcome.better is None:
        return Verdict.NOT_TESTABLE
    if question.rule == "failure":
        return failure_verdict(outcome.worse, outcome.better)
    return Verdict.BOTH_FAILED if outcome.both_failed else verdict_of(outcome.difference)


def _difference(
    contrast: Contrast, worse: Counts | None, better: Counts | None, resampling: Resampling
) -> Interval | None:
    if worse is None or better is None:
        return None
    if contrast.is_paired:
        return paired_difference([(worse, better)], resampling)
    return unpaired_difference(worse, better, resampling)


def _differs(group: Group, contrast: Contrast) -> list[str]:
    worse, better = group.newest(contrast.worse.variant), group.newest(contrast.better.variant)
    if worse is None or better is None:
        return []
    return [*([] if contrast.is_paired else ["test part"]), *differing_settings(worse, better)]


def _counts(group: Group, sample: Sample) -> Counts | None:
    run = group.newest(sample.variant)
    scored = run.scored.get(sample.part) if run else None
    return counts_of({one.id: one.characters for one in scored}) if scored else None


def _rate(counts: Counts | None, resampling: Resampling) -> Interval | None:
    return None if counts is None else corpus_rate(counts, resampling)
