"""Intervals and verdicts on inputs whose answers are known."""

import math

import numpy as np
import pandas as pd
import pytest

from asr.metrics import ErrorCounts, Scored
from asr.reporting.intervals import Interval, Resampling, count_errors, paired_difference, rate_of, resampled
from asr.reporting.verdicts import Verdict, verdict_of, verdict_of_all

RESAMPLING = Resampling(1000, 1)
LENGTHS = np.random.default_rng(0).integers(20, 120, 250).astype(float)


def counts(rate: float, seed: int, lengths: np.ndarray = LENGTHS) -> pd.DataFrame:
    """Utterances in which every symbol is wrong with the probability `rate`."""
    errors = np.random.default_rng(seed).binomial(lengths.astype(int), rate).astype(float)
    return pd.DataFrame({"errors": errors, "length": lengths}, [f"{n:04}" for n in range(len(lengths))])


def per_utterance(counts: pd.DataFrame) -> pd.DataFrame:
    """The same utterances, each with the length 1, as in a mean over utterances."""
    return counts.div(counts.length, axis=0)


def interval(counts: pd.DataFrame, resampling: Resampling = RESAMPLING) -> Interval:
    return resampled([counts], resampling)


def test_every_measure_of_known_counts() -> None:
    characters = {"b": ErrorCounts(1, 0, 1, 10), "a": ErrorCounts(0, 3, 0, 30), "c": ErrorCounts(0, 0, 0, 0)}
    scored = [Scored(id, "", "", ErrorCounts(0, 1, 0, 2), counted) for id, counted in characters.items()]
    expected = {"cer": 5 / 41, "mean_cer": (0.1 + 0.2 + 0.0) / 3, "wer": 3 / 6, "mean_wer": 1 / 2}
    for measure, rate in expected.items():
        counted = count_errors(scored, measure)
        assert list(counted.index) == ["a", "b", "c"]
        assert interval(counted).value == pytest.approx(rate_of(counted)) == pytest.approx(rate)


@pytest.mark.parametrize("of", [pd.DataFrame.copy, per_utterance])
def test_an_interval_covers_the_truth_about_95_times_of_100(of) -> None:
    intervals = [interval(of(counts(0.3, seed)), Resampling(300, seed)) for seed in range(100)]
    assert 88 <= sum(one.low <= 0.3 <= one.high for one in intervals) <= 100
    assert np.mean([one.high - one.low for one in intervals]) == pytest.approx(
        2 * 1.96 * math.sqrt(0.3 * 0.7 / LENGTHS.sum()), rel=0.2
    )


def test_intervals_can_be_repeated_and_do_without_spread() -> None:
    assert interval(counts(0.3, 1)) == interval(counts(0.3, 1))
    assert interval(counts(1.0, 1, LENGTHS[:2])) == (1.0, 1.0, 1.0)
    assert np.isnan(interval(counts(0.5, 1, LENGTHS[:1]))[1:]).all()


def test_pairing_finds_a_difference_that_is_smaller_than_either_interval() -> None:
    hard = counts(0.3, 1)
    hard = hard.assign(errors=np.where(np.arange(250) % 2, hard.length, hard.errors))  # utterances differ much
    harder = hard.assign(errors=hard.errors + (np.arange(250) % 5 == 0))
    difference = paired_difference([(harder, hard)], RESAMPLING)
    assert difference.value == pytest.approx(50 / LENGTHS.sum())
    assert verdict_of(difference) == Verdict.SUPPORTED
    assert verdict_of(paired_difference([(hard, harder)], RESAMPLING)) == Verdict.CONTRADICTED
    assert verdict_of(resampled([harder, hard], RESAMPLING)) == Verdict.UNDECIDED


def test_the_mean_over_pairs_is_the_mean_of_their_differences() -> None:
    pairs = [(counts(0.4, 1), counts(0.3, 2)), (counts(0.2, 3), counts(0.3, 4))]
    mean = paired_difference(pairs, RESAMPLING)
    assert mean.value == pytest.approx(np.mean([rate_of(first) - rate_of(second) for first, second in pairs]))
    assert verdict_of(mean) == Verdict.UNDECIDED
    with pytest.raises(ValueError, match="same utterances"):
        paired_difference([(counts(0.4, 1), counts(0.3, 2, LENGTHS[:-1]))], RESAMPLING)


def test_two_parts_may_differ_in_size() -> None:
    difference = resampled([counts(0.5, 1, LENGTHS[:100]), counts(0.3, 2)], RESAMPLING)
    assert difference.low < 0.2 < difference.high
    assert verdict_of(difference) == Verdict.SUPPORTED


def test_a_claim_on_each_needs_all() -> None:
    yes, no, open_, failed = (
        Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.UNDECIDED, Verdict.BOTH_FAILED)  # fmt: skip
    assert verdict_of_all([yes, yes]) == yes
    assert verdict_of_all([yes, open_]) == verdict_of_all([yes, failed]) == open_
    assert verdict_of_all([no, yes]) == no
    assert verdict_of_all([failed, failed]) == failed
