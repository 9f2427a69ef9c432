"""Verdicts on claims, from the runs of a group."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

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
from asr.reporting.claims import Claim, Claims, Measure, Pair, Question, Rule, Sample
from asr.reporting.groups import Group, differing_settings


@dataclass(frozen=True)
class Outcome:
    """A pair's error rates, None where the run is missing, and their difference.

    differs:     names of the settings in which the two runs differ, as far as they can change a result
    both_failed: neither model learned, by their CERs, so that the difference says nothing
    verdict:     on this pair alone
    """

    pair: Pair
    worse: Interval | None
    better: Interval | None
    differs: list[str]
    both_failed: bool
    difference: Interval | None = None
    verdict: Verdict = Verdict.NOT_TESTABLE


@dataclass(frozen=True)
class Answer:
    """The verdict on a question.

    mean:    under the rule "mean", of several pairs, over those of which not both models failed
    problem: why the runs cannot be compared
    """

    question: Question
    verdict: Verdict
    outcomes: list[Outcome]
    mean: Interval | None = None
    problem: str = ""

    @property
    def compared(self) -> int:
        """How many pairs the mean is over."""
        return sum(outcome.difference is not None and not outcome.both_failed for outcome in self.outcomes)


@dataclass(frozen=True)
class Judged:
    """A group's answers to every claim, by the claim's name."""

    group: Group
    answers: dict[str, list[Answer]]

    @property
    def has_tested(self) -> bool:
        """Return whether any claim could be tested."""
        return any(map(self.is_tested, self.answers))

    def is_tested(self, name: str) -> bool:
        """Return whether a claim has anything to show: both runs of a pair, or why they cannot be compared."""
        return any(a.problem or any(outcome.difference for outcome in a.outcomes) for a in self.answers[name])

    def problems(self, name: str) -> list[str]:
        """Return why runs of a claim cannot be compared."""
        return sorted({answer.problem for answer in self.answers[name]} - {""})

    def lacks_runs(self, name: str) -> bool:
        """Return whether runs of a claim are missing."""
        return any(a.verdict == Verdict.NOT_TESTABLE and not a.problem for a in self.answers[name])

    def outcome_verdicts(self, name: str) -> list[Verdict]:
        """Return each verdict on any pair of a claim once."""
        return sorted({outcome.verdict for answer in self.answers[name] for outcome in answer.outcomes})


def judge(claims: Claims, group: Group, resampling: Resampling) -> Judged:
    """Answer every claim from the runs of a group."""
    return Judged(
        group,
        {
            name: [_answer(question, group, resampling) for question in claim.questions]
            for name, claim in claims.claims.items()
        },
    )


def commands(claim: Claim, group: Group) -> list[str]:
    """Return what trains the claim's runs: its sweep, or a command for each run that is missing."""
    if claim.sweep:
        return [group.command(f"sweep={claim.sweep}")]
    missing = dict.fromkeys(sample.variant for sample in claim.samples if not group.newest(sample.variant))
    return [group.command_of(variant) for variant in missing]


def _answer(question: Question, group: Group, resampling: Resampling) -> Answer:
    measure = question.measure
    found = [(_counts(group, pair.worse, measure), _counts(group, pair.better, measure)) for pair in question.pairs]
    outcomes = [
        Outcome(
            pair,
            _rate(worse, resampling),
            _rate(better, resampling),
            _differs(group, pair),
            _failed(group, pair.worse) and _failed(group, pair.better),
        )
        for pair, (worse, better) in zip(question.pairs, found, strict=True)
    ]
    try:
        outcomes = [
            _judged(question.rule, replace(outcome, difference=_difference(outcome.pair, worse, better, resampling)))
            for outcome, (worse, better) in zip(outcomes, found, strict=True)
        ]
        compared = [
            (worse, better)
            for outcome, (worse, better) in zip(outcomes, found, strict=True)
            if worse and better and not outcome.both_failed
        ]
        is_mean = question.rule == Rule.mean and len(found) > 1 and compared
        mean = paired_difference(compared, resampling) if is_mean else None
    except ValueError as error:
        return Answer(question, Verdict.NOT_TESTABLE, outcomes, problem=str(error))
    return Answer(question, _verdict(outcomes, mean), outcomes, mean)


def _verdict(outcomes: Sequence[Outcome], mean: Interval | None) -> Verdict:
    verdicts = [outcome.verdict for outcome in outcomes]
    if Verdict.NOT_TESTABLE in verdicts:
        return Verdict.NOT_TESTABLE
    return verdict_of(mean) if mean else verdict_of_all(verdicts)


def _judged(rule: Rule, outcome: Outcome) -> Outcome:
    """Return the outcome with the verdict on it."""
    if outcome.difference is None or outcome.worse is None or outcome.better is None:
        return outcome
    if rule == Rule.failure:
        return replace(outcome, verdict=failure_verdict(outcome.worse, outcome.better))
    return replace(outcome, verdict=Verdict.BOTH_FAILED if outcome.both_failed else verdict_of(outcome.difference))


def _rate(counts: Counts | None, resampling: Resampling) -> Interval | None:
    return None if counts is None else corpus_rate(counts, resampling)


def _difference(pair: Pair, worse: Counts | None, better: Counts | None, resampling: Resampling) -> Interval | None:
    if worse is None or better is None:
        return None
    if pair.is_paired:
        return paired_difference([(worse, better)], resampling)
    return unpaired_difference(worse, better, resampling)


def _differs(group: Group, pair: Pair) -> list[str]:
    worse, better = group.newest(pair.worse.variant), group.newest(pair.better.variant)
    if worse is None or better is None:
        return []
    return [*([] if pair.is_paired else ["test part"]), *differing_settings(worse, better)]


def _failed(group: Group, sample: Sample) -> bool:
    counts = _counts(group, sample, Measure.cer)
    return counts is not None and counts.rate >= FAILED_RATE


def _counts(group: Group, sample: Sample, measure: Measure) -> Counts | None:
    """Return the errors and lengths whose ratio is the measure; in a mean over utterances each has the length 1."""
    run = group.newest(sample.variant)
    scored = run.scored.get(sample.part) if run else None
    if not scored:
        return None
    is_cer = measure in (Measure.cer, Measure.mean_cer)
    counts = counts_of({one.id: one.characters if is_cer else one.words for one in scored})
    if measure in (Measure.cer, Measure.wer):
        return counts
    return Counts(counts.ids, counts.errors / counts.lengths, np.ones_like(counts.lengths))
