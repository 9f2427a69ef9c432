"""Compute error rates of test utterances and their differences, with 95 % bootstrap intervals.

The utterances of a speaker tend to go wrong together. So a resample draws as many speakers as there are, with
replacement, and then for each drawn speaker as many utterances as that one has, with replacement. Where a speaker is
unknown, it draws utterances alone. Runs that differ in their seed alone are one sample with several seeds, which are
drawn as well, independently of the utterances, as all seeds are scored on the same ones.

Two stages are the cautious choice: they count the spread within speakers twice, so that an interval is up to 1.4 times
as wide as it needs to be where speakers do not differ.

source: Bisani and Ney 2004, Bootstrap estimates for confidence intervals in ASR performance evaluation (paired);
        Liu and Peng 2020, Statistical testing on ASR performance via blockwise bootstrap (speakers as blocks);
        Davison and Hinkley 1997, Bootstrap methods and their application (section 3.8: two stages; 4.4: p-values)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from asr.metrics import Scored

FEW_SPEAKERS = 10  # with fewer, intervals tend to be too narrow


class Interval(NamedTuple):
    """A value with its 95 % interval; the limits are nan where fewer than two utterances leave nothing to resample.

    p: of a difference, the two-sided p-value of the hypothesis that it is 0; nan for a rate
    """

    value: float
    low: float
    high: float
    p: float = np.nan


class Resampling(NamedTuple):
    """How intervals are drawn; every interval starts from the seed, so it does not depend on the others."""

    samples: int
    seed: int


@dataclass(frozen=True, eq=False)
class Errors:
    """The errors of a system by utterance, in the order of the ids; the sums' ratio over all is the error rate.

    speakers: None if that of any utterance is unknown
    length:   (utterances,) of the references, in words or characters
    errors:   (seeds, utterances)
    """

    ids: tuple[str, ...]
    references: tuple[str, ...]
    speakers: tuple[str, ...] | None
    length: np.ndarray
    errors: np.ndarray

    @cached_property
    def rate(self) -> float:
        """Return all errors over all lengths, the mean over the seeds."""
        return float(self.errors.mean(0).sum() / self.length.sum())

    @property
    def utterance_levels(self) -> str:
        """Describe in words what its intervals resample, but for the seeds."""
        if self.speakers:
            count = len(set(self.speakers))
            return f"{count:,} speaker{'s' if count > 1 else ''}, then their utterances"
        return f"{len(self.ids):,} utterances alone, as their speakers are unknown"

    @property
    def levels(self) -> str:
        """Describe in words what its intervals resample."""
        seeds = f"{len(self.errors)} seeds, crossed with " if len(self.errors) > 1 else ""
        return seeds + self.utterance_levels

    @property
    def warning(self) -> str:
        """Say why its intervals are unreliable; empty if they are not."""
        if not self.speakers:
            return "the speakers are unknown; intervals over utterances alone are too narrow"
        count = len(set(self.speakers))
        few = f"{count} speaker{'s' if count > 1 else ''}: with fewer than {FEW_SPEAKERS} the intervals are unreliable"
        return few if count < FEW_SPEAKERS else ""


def count_errors(seeds: Sequence[Sequence[Scored]], measure: str) -> Errors:
    """Count the errors of a system, given what each of its seeds transcribed.

    An empty reference counts as one symbol, as in ErrorCounts.rate. In a mean over utterances each has the length 1.

    measure: cer, wer, mean_cer or mean_wer
    raises:  ValueError if the seeds were not scored on the same utterances with the same references
    """
    ordered = [sorted(scored, key=lambda one: one.id) for scored in seeds]
    first = ordered[0]
    ids, references = tuple(one.id for one in first), tuple(one.reference for one in first)
    if any([(one.id, one.reference) for one in other] != list(zip(ids, references, strict=True)) for other in ordered):
        raise ValueError("the runs were not scored on the same utterances")
    unit = "characters" if measure.endswith("cer") else "words"
    counts = np.array([[getattr(one, unit) for one in scored] for scored in ordered], float).reshape(len(seeds), -1, 4)
    length, errors = np.maximum(1, counts[0, :, 3]), counts[:, :, :3].sum(2)
    if measure.startswith("mean_"):
        length, errors = np.ones_like(length), errors / length
    speakers = tuple(one.speaker for one in first if one.speaker is not None)
    return Errors(ids, references, speakers if len(speakers) == len(first) else None, length, errors)


def resampled(samples: Sequence[Errors], resampling: Resampling) -> Interval:
    """Return the rate of one sample, or the rate of a first minus that of a second, resampled independently."""
    rates = [_rates(one, resampling, number) for number, one in enumerate(samples)]
    if len(samples) == 1:
        return _interval(samples[0].rate, rates[0])
    return _difference(samples[0].rate - samples[1].rate, rates[0] - rates[1])


def are_paired(samples: Sequence[Errors]) -> bool:
    """Return whether all were scored on the same utterances with the same references."""
    return all(one.ids == samples[0].ids and one.references == samples[0].references for one in samples)


def paired_difference(pairs: Sequence[tuple[Errors, Errors]], resampling: Resampling) -> Interval:
    """Return the mean over the pairs of first minus second rate, all on the same resampled utterances.

    raises: ValueError if any two were not scored on the same utterances with the same references
    """
    samples = [sample for pair in pairs for sample in pair]
    if not are_paired(samples):
        raise ValueError("the runs were not scored on the same utterances")
    if len({one.speakers for one in samples}) > 1:  # an older run has none
        samples = [replace(one, speakers=None) for one in samples]
    rates = [_rates(one, resampling, seeds_stream=number) for number, one in enumerate(samples)]
    value = np.mean([first.rate - second.rate for first, second in pairs])
    return _difference(float(value), np.mean([a - b for a, b in zip(rates[::2], rates[1::2], strict=True)], axis=0))


def _rates(sample: Errors, resampling: Resampling, stream: int = 0, seeds_stream: int = 0) -> np.ndarray:
    """Return the rate in every resample. stream, seeds_stream: others draw other utterances, or other seeds."""
    if len(sample.ids) < 2:
        return np.full(resampling.samples, np.nan)
    speakers = sample.speakers or ("",) * len(sample.ids)
    times = draw_utterances(speakers, resampling.samples, (resampling.seed, stream))
    errors = times @ sample.errors.T  # (samples, seeds)
    seeds = len(sample.errors)
    random = np.random.default_rng((resampling.seed, stream, 1 + seeds_stream))
    drawn = random.multinomial(seeds, np.full(seeds, 1 / seeds), resampling.samples) / seeds
    return (errors * drawn).sum(1) / (times @ sample.length)


@lru_cache(maxsize=4)  # the test parts of a report: tens of intervals are of the same utterances
def draw_utterances(speakers: tuple[str, ...], samples: int, seed: tuple[int, int]) -> np.ndarray:
    """Return how many times each resample has each utterance: (samples, utterances).

    speakers: of the utterances; where all have the same one, utterances alone are drawn
    """
    random = np.random.default_rng(seed)
    _, speaker, sizes = np.unique(speakers, return_inverse=True, return_counts=True)
    drawn = random.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), samples)
    times = np.empty((samples, len(speakers)))
    for number, size in enumerate(sizes):
        times[:, speaker == number] = random.multinomial(drawn[:, number] * size, np.full(size, 1 / size))
    return times


def _interval(value: float, rates: np.ndarray, p: float = np.nan) -> Interval:
    low, high = np.quantile(rates, [0.025, 0.975])
    return Interval(value, float(low), float(high), p)


def _difference(value: float, differences: np.ndarray) -> Interval:
    """Return a difference; its p-value is twice the smaller share of resamples on one side of 0, itself counted."""
    if np.isnan(differences).any():
        return Interval(value, np.nan, np.nan)
    smaller = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return _interval(value, differences, min(1.0, 2 * (1 + smaller) / (1 + len(differences))))
