"""Error rates with bootstrap intervals over utterances, paired differences, and the rules of verdicts. No I/O.

source: Bisani and Ney 2004, Bootstrap estimates for confidence intervals in ASR performance evaluation.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

from asr.metrics import ErrorCounts

FAILED_RATE = 0.9  # a CER from which a model counts as failed: it emits next to nothing
BATCH_NUMBERS = 2_000_000  # resampled utterances held at once


class Interval(NamedTuple):
    """A value with its 95 % interval; the limits are nan where fewer than two utterances leave nothing to resample."""

    value: float
    low: float
    high: float


class Resampling(NamedTuple):
    """How intervals are drawn; every interval starts from the seed, so it does not depend on the others."""

    samples: int
    seed: int


class Counts(NamedTuple):
    """Errors and reference lengths of the utterances of a part, both (U,), sorted by id."""

    ids: list[str]
    errors: np.ndarray
    lengths: np.ndarray

    @property
    def rate(self) -> float:
        """The corpus rate: all errors over all reference symbols."""
        return float(self.errors.sum() / self.lengths.sum())


class Verdict(StrEnum):
    """What the numbers say about a claim; the report states the rules in words."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    BOTH_FAILED = "both failed"
    DID_NOT_FAIL = "did not fail"
    NOT_TESTABLE = "not testable yet"


def counts_of(counted: dict[str, ErrorCounts]) -> Counts:
    """Return the counts of utterances, given by id; an empty reference counts as one symbol, as in ErrorCounts.rate."""
    ids = sorted(counted)
    errors = [sum(counted[id][:3]) for id in ids]
    lengths = [max(1, counted[id].length) for id in ids]
    return Counts(ids, np.array(errors, dtype=float), np.array(lengths, dtype=float))


def corpus_rate(counts: Counts, resampling: Resampling) -> Interval:
    """Return all errors over all reference symbols, with its interval."""
    return _ratio(counts.errors, counts.lengths, resampling)


def mean_rate(counts: Counts, resampling: Resampling) -> Interval:
    """Return the mean over utterances of each utterance's rate, with its interval."""
    return _ratio(counts.errors / counts.lengths, np.ones_like(counts.lengths), resampling)


def paired_difference(pairs: Sequence[tuple[Counts, Counts]], resampling: Resampling) -> Interval:
    """Return the mean over the pairs of first minus second corpus rate, all on the same resampled utterances.

    With the same references in all, the mean of differences of rates is the rate of the mean differences of errors.
    raises: ValueError if any two were not scored on the same utterances with the same references
    """
    reference = pairs[0][0]
    for one in (counts for pair in pairs for counts in pair):
        if one.ids != reference.ids or not np.array_equal(one.lengths, reference.lengths):
            raise ValueError("the runs were not scored on the same utterances")
    differences = np.mean([first.errors - second.errors for first, second in pairs], axis=0)
    return _ratio(differences, reference.lengths, resampling)


def unpaired_difference(first: Counts, second: Counts, resampling: Resampling) -> Interval:
    """Return first minus second corpus rate; the utterances of each are resampled independently."""
    value = first.rate - second.rate
    if min(len(first.ids), len(second.ids)) < 2:
        return Interval(value, np.nan, np.nan)

    def difference(i: np.ndarray, j: np.ndarray, axis: int = -1) -> np.ndarray:
        rates = [c.errors[k].sum(axis) / c.lengths[k].sum(axis) for c, k in ((first, i), (second, j))]
        return rates[0] - rates[1]

    indices = (np.arange(len(first.ids)), np.arange(len(second.ids)))
    drawn = bootstrap(indices, difference, **_settings(max(map(len, indices)), resampling))
    return Interval(value, *map(float, drawn.confidence_interval))


def _ratio(numerators: np.ndarray, denominators: np.ndarray, resampling: Resampling) -> Interval:
    """Return the sum of one over the sum of the other, both (U,), resampled together."""
    value = float(numerators.sum() / denominators.sum())
    if len(numerators) < 2:
        return Interval(value, np.nan, np.nan)

    def ratio(n: np.ndarray, d: np.ndarray, axis: int = -1) -> np.ndarray:
        return n.sum(axis) / d.sum(axis)

    drawn = bootstrap((numerators, denominators), ratio, paired=True, **_settings(len(numerators), resampling))
    return Interval(value, *map(float, drawn.confidence_interval))


def _settings(utterances: int, resampling: Resampling) -> dict:
    return {
        "n_resamples": resampling.samples,
        "batch": max(1, BATCH_NUMBERS // utterances),
        "vectorized": True,
        "method": "percentile",
        "rng": np.random.default_rng(resampling.seed),
    }


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
