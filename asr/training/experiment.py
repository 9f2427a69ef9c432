"""A training run before anything is written: what is trained, on what, and how."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.data.augment import Augment
from asr.data.batches import EpochBatches, Position, Shard
from asr.data.dataset import Batch, UtteranceDataset
from asr.data.loader import evaluation_batches, training_batches
from asr.data.parts import Data
from asr.decoding.decoder import Decoder
from asr.models.recognizer import Recognizer
from asr.training.compute import Compute


@dataclass(frozen=True)
class Experiment:
    """Everything that a training run is made of.

    config: all settings, resolved, as checkpoints keep them
    decoder: of the test parts; dev is decoded greedily after each epoch
    batches: those of each epoch of the data
    """

    config: dict[str, Any]
    recognizer: Recognizer
    decoder: Decoder
    augment: Augment
    optimizer: Optimizer
    scheduler: LRScheduler
    compute: Compute
    data: Data
    batches: EpochBatches
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        return self.config["epochs"]

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def shard(self) -> Shard:
        """Return which part of each batch this process takes."""
        world = self.compute.world
        return Shard(world.rank, world.size, self.config["batch"]["accumulate"])

    def training_dataset(self) -> UtteranceDataset:
        """Return the dataset of augmented utterances; those that cannot be read are left out."""
        return self.recognizer.dataset(self.augment, self.config["seed"], skip_unreadable=True)

    def training_batches(self, start: Position) -> Iterator[list[Batch]]:
        """Yield this process's micro-batches of each batch, without end, from `start` on; or of the first one alone."""
        overfits = self.config["overfit_below"] is not None
        loading = self.config["workers"], self.compute.pin_memory, self.shard
        start = Position(0, 0) if overfits else start
        batches = training_batches(self.training_dataset(), self.batches, start, *loading)
        while True:
            micro_batches = list(islice(batches, self.shard.micro_batches))
            yield from repeat(micro_batches) if overfits else [micro_batches]

    def dev_batches(self) -> Iterator[Batch]:
        """Yield this process's batches of all dev parts, unaugmented."""
        loading = self.config["workers"], self.compute.pin_memory, self.shard
        dataset = self.recognizer.dataset(None, self.config["seed"])
        return evaluation_batches(dataset, self.data.dev_utterances(), self.config["batch"]["eval_seconds"], *loading)
