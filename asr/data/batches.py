"""Which utterances make a batch: the batches of each epoch of the data, and the shard of each process.

An epoch of the data holds every training utterance once. A training may call any number of steps an epoch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import ceil
from random import Random
from typing import Any, NamedTuple

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicBucketingSampler, SimpleCutSampler
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets
from torch.utils.data import Sampler

from asr.data.augment import Augment
from asr.errors import InputError

SAMPLE = 10_000  # utterances from whose lengths the bounds of the buckets are estimated
# Every process draws all batches and takes its shard of each; lhotse would otherwise ask torch.distributed.
SINGLE = {"world_size": 1, "rank": 0}


class Position(NamedTuple):
    """The position of a batch in training. pass_number: the epoch of the data, from 0; batch_index: within it."""

    pass_number: int
    batch_index: int


@dataclass(slots=True)
class SpeedPerturbed:
    """A cut at the speed that is drawn for it in an epoch. lhotse's samplers can treat it as a cut.

    duration: seconds, at that speed
    """

    cut: Cut
    duration: float
    dataloading_info: Any = None  # set by lhotse's samplers

    @property
    def id(self) -> str:
        return self.cut.id


class Share(NamedTuple):
    """The shard of each batch that a process computes, as so many micro-batches (pieces). rank: its number, from 0."""

    rank: int
    processes: int
    pieces: int

    def of(self, batch: Iterable[SpeedPerturbed]) -> list[list[SpeedPerturbed]]:
        """Return the micro-batches of this process. Utterances are dealt out by length, so all are alike."""
        by_length = sorted(batch, key=lambda utterance: -utterance.duration)
        step = self.processes * self.pieces
        return [by_length[first::step] for first in range(self.rank, step, self.processes)]


WHOLE = Share(rank=0, processes=1, pieces=1)


@dataclass(frozen=True)
class Passes:
    """The batches of each epoch of the data, which has an order of its own.

    utterances: of a random batch, as in the writeup; or None, and
    seconds:    of audio with padding, of a batch of utterances whose lengths, at the speeds of that epoch, are similar
    buckets:    of lengths, for the latter
    """

    cuts: CutSet
    augment: Augment
    seed: int
    utterances: int | None
    seconds: float | None
    buckets: int

    def __post_init__(self) -> None:
        if (self.utterances is None) == (self.seconds is None):
            raise InputError(
                f"batch.utterances={self.utterances} and batch.seconds={self.seconds}: exactly one of them must be "
                "set; utterances gives random batches as in the writeup, seconds gives batches of similar length; set "
                "the other to null"
            )
        if self.seconds is not None and len(self.cuts) == 1:
            raise InputError(
                f"batch.seconds={self.seconds}: there is one training utterance, and batches of similar length need "
                "two; set batch.utterances=1 and batch.seconds=null"
            )
        longest = max(cut.duration for cut in self.cuts) / self.augment.slowest
        if self.seconds is not None and longest > self.seconds:
            raise InputError(
                f"batch.seconds={self.seconds}: the longest training utterance can last {longest:.1f} s and must fit "
                "into a batch; raise batch.seconds or lower data.max_seconds"
            )

    def steps(self) -> int:
        """Return the number of batches in the first epoch of the data; the others have about as many."""
        if self.utterances is not None:
            return ceil(len(self.cuts) / self.utterances)
        return sum(1 for _ in self.batches(0))

    def batches(self, number: int) -> Iterator[list[SpeedPerturbed]]:
        """Yield the batches of an epoch of the data."""
        if self.utterances is not None:
            random = SimpleCutSampler(self.cuts, max_cuts=self.utterances, shuffle=True, seed=self.seed, **SINGLE)
            random.set_epoch(number)
            return ([self._perturb(cut, number) for cut in batch] for batch in random)
        # Shuffled here, since lhotse shuffles within a buffer only, and takes longer.
        order = Random(f"{self.seed} {number}").sample(list(self.cuts), len(self.cuts))
        of_like_length = DynamicBucketingSampler(
            (self._perturb(cut, number) for cut in order),
            max_duration=self.seconds,
            duration_bins=self._bins,
            seed=self.seed,
            **SINGLE,
        )
        of_like_length.set_epoch(number)
        return map(list, of_like_length)

    def _perturb(self, cut: Cut, number: int) -> SpeedPerturbed:
        return SpeedPerturbed(cut, cut.duration / self.augment.speed_of(self.seed, number, cut.id))

    @cached_property
    def _bins(self) -> list[float]:
        """The bounds between buckets, in seconds."""
        sample = Random(self.seed).sample(list(self.cuts), min(SAMPLE, len(self.cuts)))
        return estimate_duration_buckets((self._perturb(cut, 0) for cut in sample), min(self.buckets, len(sample)))


class EpochSampler(Sampler):
    """Yield the micro-batches of a shard of each batch from `start` on, epoch after epoch."""

    def __init__(self, passes: Passes, start: Position, share: Share = WHOLE) -> None:
        self.passes, self.start, self.share = passes, start, share

    def __iter__(self) -> Iterator[tuple[Position, list[Cut]]]:
        for number in count(self.start.pass_number):
            for index, batch in enumerate(self.passes.batches(number)):
                position = Position(number, index)
                if position >= self.start:
                    for micro_batch in self.share.of(batch):
                        yield position, [utterance.cut for utterance in micro_batch]
