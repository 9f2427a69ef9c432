"""Intervals and verdicts on inputs whose answers are known."""

import math

import numpy as np
import pytest

from asr.metrics import ErrorCounts
from asr.reporting.analysis import (
    Counts,
    Resampling,
    Verdict,
    corpus_rate,
    counts_of,
    mean_rate,
    paired_difference,
    unpaired_difference,
    verdict_of,
    verdict_of_all,
)

RESAMPLING = Resampling(1000, 1)
LENGTHS = np.random.default_rng(0).integers(20, 120, 250).astype(float)


def counts(rate: float, seed: int, lengths: np.ndarray = LENGTHS) -> Counts:
    """Utterances in which every symbol is wrong with the probability `rate`."""
    errors = np.random.default_rng(seed).binomial(lengths.astype(int), rate).astype(float)
    return Counts([f"{n:04}" for n in range(len(lengths))], errors, lengths)


def test_both_rates_of_known_counts() -> None:
    two = counts_of({"b": ErrorCounts(1, 0, 1, 10), "a": ErrorCounts(0, 3, 0, 30), "c": ErrorCounts(0, 0, 0, 0)})
    assert two.ids == ["a", "b", "c"]
    assert corpus_rate(two, RESAMPLING).value == pytest.approx(5 / 41)
    assert mean_rate(two, RESAMPLING).value == pytest.approx((0.1 + 0.2 + 0.0) / 3)


@pytest.mark.parametrize("rate", [corpus_rate, mean_rate])
def test_an_interval_covers_the_truth_about_95_times_of_100(rate) -> None:
    intervals = [rate(counts(0.3, seed), Resampling(300, seed)) for seed in range(100)]
    assert 88 <= sum(one.low <= 0.3 <= one.high for one in intervals) <= 100
    assert np.mean([one.high - one.low for one in intervals]) == pytest.approx(
        2 * 1.96 * math.sqrt(0.3 * 0.7 / LENGTHS.sum()), rel=0.2
    )


def test_intervals_can_be_repeated_and_do_without_spread() -> None:
    assert corpus_rate(counts(0.3, 1), RESAMPLING) == corpus_rate(counts(0.3, 1), RESAMPLING)
    assert corpus_rate(Counts(["a", "b"], LENGTHS[:2], LENGTHS[:2]), RESAMPLING) == (1.0, 1.0, 1.0)
    assert np.isnan(corpus_rate(counts(0.5, 1, LENGTHS[:1]), RESAMPLING)[1:]).all()


def test_pairing_finds_a_difference_that_is_smaller_than_either_interval() -> None:
    hard = counts(0.3, 1)
    hard = hard._replace(errors=np.where(np.arange(250) % 2, hard.lengths, hard.errors))  # utterances differ much
    harder = hard._replace(errors=hard.errors + (np.arange(250) % 5 == 0))
    difference = paired_difference([(harder, hard)], RESAMPLING)
    assert difference.value == pytest.approx(50 / LENGTHS.sum())
    assert verdict_of(difference) == Verdict.SUPPORTED
    assert verdict_of(paired_difference([(hard, harder)], RESAMPLING)) == Verdict.CONTRADICTED
    assert verdict_of(unpaired_difference(harder, hard, RESAMPLING)) == Verdict.UNDECIDED


def test_the_mean_over_pairs_is_the_mean_of_their_differences() -> None:
    pairs = [(counts(0.4, 1), counts(0.3, 2)), (counts(0.2, 3), counts(0.3, 4))]
    mean = paired_difference(pairs, RESAMPLING)
    assert mean.value == pytest.approx(np.mean([first.rate - second.rate for first, second in pairs]))
    assert verdict_of(mean) == Verdict.UNDECIDED
    with pytest.raises(ValueError, match="same utterances"):
        paired_difference([(counts(0.4, 1), counts(0.3, 2, LENGTHS[:-1]))], RESAMPLING)


def test_two_parts_may_differ_in_size() -> None:
    difference = unpaired_difference(counts(0.5, 1, LENGTHS[:100]), counts(0.3, 2), RESAMPLING)
    assert difference.low < 0.2 < difference.high
    assert verdict_of(difference) == Verdict.SUPPORTED


def test_a_claim_on_each_needs_all() -> None:
    yes, no, open_, failed = (
        Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.UNDECIDED, Verdict.BOTH_FAILED)  # fmt: skip
    assert verdict_of_all([yes, yes]) == yes
    assert verdict_of_all([yes, open_]) == verdict_of_all([yes, failed]) == open_
    assert verdict_of_all([no, yes]) == no
    assert verdict_of_all([failed, failed]) == failed
