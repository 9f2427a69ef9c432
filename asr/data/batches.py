"""Which utterances make a batch: passes over the data, the batches of each, and the shares of several processes."""

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

SAMPLE = 10_000  # utterances whose lengths tell where the buckets end
# Every process draws the whole stream and takes its share; lhotse would otherwise ask torch.distributed.
SINGLE = {"world_size": 1, "rank": 0}


class Position(NamedTuple):
    """Where a batch stands in training: the pass over the data, and the batch within it."""

    pass_number: int
    batch_index: int


@dataclass(slots=True)
class Heard:
    """A cut as a pass hears it, faster or slower. lhotse's samplers take it for a cut.

    duration: seconds, at that speed
    """

    cut: Cut
    duration: float
    dataloading_info: Any = None  # which lhotse's samplers leave in a cut

    @property
    def id(self) -> str:
        return self.cut.id


class Share(NamedTuple):
    """What one of several processes takes of each batch, in so many pieces. rank: of this process, from 0."""

    rank: int
    processes: int
    pieces: int

    def of(self, batch: Iterable[Heard]) -> list[list[Heard]]:
        """The pieces of this process. All are alike: utterances are dealt out by length."""
        by_length = sorted(batch, key=lambda heard: -heard.duration)
        step = self.processes * self.pieces
        return [by_length[first::step] for first in range(self.rank, step, self.processes)]


WHOLE = Share(rank=0, processes=1, pieces=1)


@dataclass(frozen=True)
class Passes:
    """Passes over the data without end, each in its own order, with every utterance once.

    Batches are either random ones of so many utterances (the writeup's) or of like length, as each utterance lasts in
    that pass: then they hold so many seconds with padding, and so many buckets of lengths are told apart.
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
                "set; utterances gives random batches as in the writeup, seconds gives batches of like length; set "
                "the other to null"
            )
        if self.seconds is not None and len(self.cuts) == 1:
            raise InputError(
                f"batch.seconds={self.seconds}: there is one training utterance, and batches of like length need two; "
                "set batch.utterances=1 and batch.seconds=null"
            )
        longest = max(cut.duration for cut in self.cuts) / self.augment.slowest
        if self.seconds is not None and longest > self.seconds:
            raise InputError(
                f"batch.seconds={self.seconds}: the longest training utterance can last {longest:.1f} s and must fit "
                "into a batch; raise batch.seconds or lower data.max_seconds"
            )

    def steps(self) -> int:
        """The batches of the first pass; other passes have about as many."""
        if self.utterances is not None:
            return ceil(len(self.cuts) / self.utterances)
        return sum(1 for _ in self.batches(0))

    def batches(self, number: int) -> Iterator[list[Heard]]:
        """Those of one pass."""
        if self.utterances is not None:
            random = SimpleCutSampler(self.cuts, max_cuts=self.utterances, shuffle=True, seed=self.seed, **SINGLE)
            random.set_epoch(number)
            return ([self._heard(cut, number) for cut in batch] for batch in random)
        # Shuffled here, since lhotse shuffles no further than its buffer reaches, and takes longer for it.
        order = Random(f"{self.seed} {number}").sample(list(self.cuts), len(self.cuts))
        of_like_length = DynamicBucketingSampler(
            (self._heard(cut, number) for cut in order),
            max_duration=self.seconds,
            duration_bins=self._bins,
            seed=self.seed,
            **SINGLE,
        )
        of_like_length.set_epoch(number)
        return map(list, of_like_length)

    def _heard(self, cut: Cut, number: int) -> Heard:
        return Heard(cut, cut.duration / self.augment.speed_of(self.seed, number, cut.id))

    @cached_property
    def _bins(self) -> list[float]:
        """Seconds at which a bucket ends and the next begins."""
        sample = Random(self.seed).sample(list(self.cuts), min(SAMPLE, len(self.cuts)))
        return estimate_duration_buckets((self._heard(cut, 0) for cut in sample), min(self.buckets, len(sample)))


class PassSampler(Sampler):
    """The batches of pass after pass, from `start` on; of each the pieces of a share."""

    def __init__(self, passes: Passes, start: Position, share: Share = WHOLE) -> None:
        self.passes, self.start, self.share = passes, start, share

    def __iter__(self) -> Iterator[tuple[Position, list[Cut]]]:
        for number in count(self.start.pass_number):
            for index, batch in enumerate(self.passes.batches(number)):
                position = Position(number, index)
                if position >= self.start:
                    for piece in self.share.of(batch):
                        yield position, [heard.cut for heard in piece]
