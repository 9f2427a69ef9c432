"""Which utterances make a batch: the batches of each epoch of the data, and the shard of each process.

An epoch of the data holds every training utterance once. A training may call any number of steps an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import ceil
from typing import NamedTuple

import numpy as np

from asr.corpora.manifest import Utterance, Utterances
from asr.data.augment import Augment, id_keys
from asr.errors import InputError


class Position(NamedTuple):
    """The position of a batch in training: the epoch of the data, from 0, and the batch's number in it."""

    data_epoch: int
    batch_index: int


class Shard(NamedTuple):
    """The part of each batch that a process computes, as so many micro-batches. rank: the process's number, from 0."""

    rank: int = 0
    processes: int = 1
    micro_batches: int = 1

    def of(self, batch: list[Utterance]) -> list[list[Utterance]]:
        """Return the micro-batches of this process. Utterances are dealt out by length, so all are alike."""
        by_length = sorted(batch, key=lambda one: -one.seconds / one.speed)
        step = self.processes * self.micro_batches
        return [by_length[first::step] for first in range(self.rank, step, self.processes)]


WHOLE = Shard()


@dataclass(frozen=True)
class EpochBatches:
    """The batches of each epoch of the data, a function of the seed and the epoch alone.

    size:    utterances in a random batch, as in the writeup; or None, and
    seconds: of audio, padding included, in a batch of utterances whose lengths, at the speeds of that epoch, are alike
    buckets: groups of like length that the latter are drawn from
    """

    utterances: Utterances
    augment: Augment
    seed: int
    size: int | None
    seconds: float | None
    buckets: int

    def __post_init__(self) -> None:
        if (self.size is None) == (self.seconds is None):
            raise InputError(
                f"batch.utterances={self.size} and batch.seconds={self.seconds}: exactly one of them must be set; "
                "utterances gives random batches as in the writeup, seconds gives batches of similar length; set the "
                "other to null"
            )
        longest = self.utterances.seconds.max() / self.augment.slowest
        if self.seconds is not None and longest > self.seconds:
            raise InputError(
                f"batch.seconds={self.seconds}: the longest training utterance can last {longest:.1f} s and must fit "
                "into a batch; raise batch.seconds or lower data.max_seconds"
            )

    def steps(self) -> int:
        """Return the number of batches in the first epoch of the data; the others have about as many."""
        return ceil(len(self.utterances) / self.size) if self.size else len(self._rows(0)[0])

    def batches(self, data_epoch: int, start: int = 0) -> Iterator[list[Utterance]]:
        """Yield the batches of an epoch of the data, from batch `start` on."""
        rows, speeds = self._rows(data_epoch)
        return (self.utterances.rows(batch, speeds) for batch in rows[start:])

    def longest(self, epochs: int, shard: Shard) -> tuple[Position, list[Utterance]]:
        """Return the micro-batch with the most audio, padding included, of the first epochs of the data."""
        most, position = 0.0, Position(0, 0)
        for data_epoch in range(epochs):
            rows, speeds = self._rows(data_epoch)
            seconds = self.utterances.seconds / speeds
            for index, batch in enumerate(rows):
                size = ceil(len(batch) / (shard.processes * shard.micro_batches)) * seconds[batch].max()
                if size > most:
                    most, position = size, Position(data_epoch, index)
        return position, shard._replace(rank=0).of(next(self.batches(*position)))[0]

    def _rows(self, data_epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the row numbers of each batch, and the speed of each row."""
        speeds = self.augment.speeds(self.seed, data_epoch, self._keys)
        generator = np.random.default_rng([self.seed, data_epoch])
        if self.size:
            order = generator.permutation(len(speeds))
            return [order[first : first + self.size] for first in range(0, len(order), self.size)], speeds
        assert self.seconds is not None
        seconds = self.utterances.seconds / speeds
        buckets = np.array_split(np.argsort(seconds, kind="stable"), self.buckets)
        batches = fill(np.concatenate([generator.permutation(bucket) for bucket in buckets]), seconds, self.seconds)
        return [batches[number] for number in generator.permutation(len(batches))], speeds

    @cached_property
    def _keys(self) -> np.ndarray:
        return id_keys(self.utterances.table["id"].to_pylist())


def fill(order: np.ndarray, seconds: np.ndarray, limit: float) -> list[np.ndarray]:
    """Split rows, in their order, into batches that last `limit` seconds at most, padding included; none is empty."""
    batches, first, longest = [], 0, 0.0
    for at, length in enumerate(seconds[order].tolist()):
        longest = max(longest, length)
        if at > first and longest * (at - first + 1) > limit:
            batches.append(order[first:at])
            first, longest = at, length
    return [*batches, order[first:]]


def micro_batches(batches: EpochBatches, start: Position, shard: Shard) -> Iterator[tuple[Position, list[Utterance]]]:
    """Yield the micro-batches of a shard of each batch from `start` on, epoch after epoch."""
    for data_epoch in count(start.data_epoch):
        first = start.batch_index if data_epoch == start.data_epoch else 0
        for index, batch in enumerate(batches.batches(data_epoch, first), first):
            for micro_batch in shard.of(batch):
                yield Position(data_epoch, index), micro_batch
