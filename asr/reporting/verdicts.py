"""Judge claims by the runs of a group. The report's template states the rules in words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from asr.reporting.claims import Claim, Claims, Pair, Rule, Sample
from asr.reporting.groups import Group, differing_settings
from asr.reporting.intervals import Interval, Resampling, are_paired, paired_difference, resampled

FAILED_RATE = 0.9  # a CER from which a model counts as failed: it emits next to nothing


class Verdict(StrEnum):
    """What the numbers say about a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    BOTH_FAILED = "both failed"
    DID_NOT_FAIL = "did not fail"
    NOT_TESTABLE = "not testable yet"


@dataclass
class Outcome:
    """What the runs say about a pair.

    worse, better: error rates; None where the run is missing
    differs:       names of the settings in which the two runs differ, as far as they can change a result
    both_failed:   neither model learned, by their CERs, so that the difference says nothing
    """

    pair: Pair
    worse: Interval | None
    better: Interval | None
    differs: list[str]
    both_failed: bool
    difference: Interval | None = None
    verdict: Verdict = Verdict.NOT_TESTABLE


@dataclass
class Answer:
    """The verdict on pairs that get one together.

    name:     the test part, or the pair where each has a verdict of its own
    mean:     difference over the pairs of which not both models failed, under the rule "mean"
    compared: how many pairs these are
    problem:  why the runs cannot be compared
    """

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    verdict: Verdict = Verdict.NOT_TESTABLE
    mean: Interval | None = None
    compared: int = 0
    problem: str = ""

    @property
    def is_tested(self) -> bool:
        """Return whether there is anything to show: both runs of a pair, or why they cannot be compared."""
        return bool(self.problem) or any(outcome.difference for outcome in self.outcomes)


def judge(claims: Claims, group: Group, resampling: Resampling) -> dict[str, list[Answer]]:
    """Answer every claim from the runs of a group; return the answers by the claim's name."""
    return {
        name: [_answer(claim, question, group, resampling) for question in claim.questions]
        for name, claim in claims.claims.items()
    }


def _answer(claim: Claim, question: str, group: Group, resampling: Resampling) -> Answer:
    pairs = claim.questions[question]
    counts = [[group.counts(sample.variant, sample.part, claim.measure) for sample in pair.samples] for pair in pairs]
    answer = Answer(question)
    if pairs[0].is_paired and not are_paired([one for both in counts for one in both if one is not None]):
        answer.problem = "the runs were not scored on the same utterances"
    compared = []
    for pair, (worse, better) in zip(pairs, counts, strict=True):
        outcome = Outcome(
            pair,
            worse=None if worse is None else resampled([worse], resampling),
            better=None if better is None else resampled([better], resampling),
            differs=_differing(group, pair),
            both_failed=all(_failed(group, sample) for sample in pair.samples),
        )
        answer.outcomes.append(outcome)
        if worse is not None and better is not None and not answer.problem:
            outcome.difference = (
                paired_difference([(worse, better)], resampling)
                if pair.is_paired
                else resampled([worse, better], resampling)
            )
            if not outcome.both_failed:
                compared.append((worse, better))
        outcome.verdict = _verdict(claim.rule, outcome)
    if claim.rule == Rule.mean and len(pairs) > 1 and compared:
        answer.mean, answer.compared = paired_difference(compared, resampling), len(compared)
    verdicts = [outcome.verdict for outcome in answer.outcomes]
    if Verdict.NOT_TESTABLE not in verdicts:
        answer.verdict = verdict_of(answer.mean) if answer.mean else verdict_of_all(verdicts)
    return answer


def _failed(group: Group, sample: Sample) -> bool:
    counts = group.counts(sample.variant, sample.part, "cer")
    return counts is not None and counts.rate >= FAILED_RATE


def _differing(group: Group, pair: Pair) -> list[str]:
    worse, better = (group.runs.get(sample.variant) for sample in pair.samples)
    if worse is None or better is None:
        return []
    return [*([] if pair.is_paired else ["test part"]), *differing_settings(worse, better)]


def _verdict(rule: Rule, outcome: Outcome) -> Verdict:
    """Return the verdict on a pair alone."""
    if outcome.worse is None or outcome.better is None or outcome.difference is None:
        return Verdict.NOT_TESTABLE
    if rule == Rule.failure:
        return failure_verdict(outcome.worse, outcome.better)
    return Verdict.BOTH_FAILED if outcome.both_failed else verdict_of(outcome.difference)


def verdict_of(difference: Interval) -> Verdict:
    """Return the verdict on a difference that the claim says is above 0."""
    if difference.low > 0:
        return Verdict.SUPPORTED
    return Verdict.CONTRADICTED if difference.high < 0 else Verdict.UNDECIDED


def failure_verdict(with_it: Interval, without: Interval) -> Verdict:
    """Return the verdict on what made a model fail, from the CERs of that model and of one trained without it."""
    if with_it.high < FAILED_RATE:
        return Verdict.DID_NOT_FAIL
    if with_it.low >= FAILED_RATE and without.high < FAILED_RATE:
        return Verdict.SUPPORTED
    return Verdict.CONTRADICTED if min(with_it.low, without.low) >= FAILED_RATE else Verdict.UNDECIDED


def verdict_of_all(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a claim that holds only if each of several comparisons does."""
    if Verdict.CONTRADICTED in verdicts:
        return Verdict.CONTRADICTED
    return verdicts[0] if len(set(verdicts)) == 1 else Verdict.UNDECIDED
