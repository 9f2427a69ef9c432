"""Compute error rates of test utterances, with 95 % bootstrap intervals.

source: Bisani and Ney 2004, Bootstrap estimates for confidence intervals in ASR performance evaluation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from asr.metrics import Scored

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


def count_errors(scored: Sequence[Scored], measure: str) -> pd.DataFrame:
    """Return the errors and the length of each utterance, by id; their sums' ratio is the measure.

    An empty reference counts as one symbol, as in ErrorCounts.rate. In a mean over utterances each has the length 1.

    measure: cer, wer, mean_cer or mean_wer
    """
    counted = {one.id: one.characters if measure.endswith("cer") else one.words for one in scored}
    rows = [(float(sum(counts[:3])), float(max(1, counts.length))) for counts in counted.values()]
    table = pd.DataFrame(rows, list(counted), ["errors", "length"]).sort_index()
    return table.div(table.length, axis=0) if measure.startswith("mean_") else table


def rate_of(counts: pd.DataFrame) -> float:
    """Return all errors over all lengths."""
    return float(counts.errors.sum() / counts.length.sum())


def resampled(counts: Sequence[pd.DataFrame], resampling: Resampling) -> Interval:
    """Return the rate of one sample of utterances, or the rate of a first minus that of a second, with its interval."""
    columns = [(one.errors.to_numpy(), one.length.to_numpy()) for one in counts]

    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        rates = [errors[i].sum(axis) / length[i].sum(axis) for (errors, length), i in zip(columns, drawn, strict=True)]
        return rates[0] if len(rates) == 1 else rates[0] - rates[1]

    utterances = [np.arange(len(one)) for one in counts]
    value = float(statistic(*utterances))
    if min(map(len, counts)) < 2:
        return Interval(value, np.nan, np.nan)
    batch = max(1, BATCH_NUMBERS // max(map(len, counts)))
    result = bootstrap(
        utterances, statistic, n_resamples=resampling.samples, batch=batch, vectorized=True, method="percentile",
        rng=np.random.default_rng(resampling.seed),
    )  # fmt: skip
    return Interval(value, *map(float, result.confidence_interval))


def are_paired(counts: Sequence[pd.DataFrame]) -> bool:
    """Return whether all were scored on the same utterances with the same references."""
    return all(one.length.equals(counts[0].length) for one in counts)


def paired_difference(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]], resampling: Resampling) -> Interval:
    """Return the mean over the pairs of first minus second rate, all on the same resampled utterances.

    With the same references in all, the mean of differences of rates is the rate of the mean differences of errors.
    raises: ValueError if any two were not scored on the same utterances with the same references
    """
    if not are_paired([counts for pair in pairs for counts in pair]):
        raise ValueError("the runs were not scored on the same utterances")
    errors = np.mean([first.errors - second.errors for first, second in pairs], axis=0)
    return resampled([pairs[0][0].assign(errors=errors)], resampling)
