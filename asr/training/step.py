"""The training step: forward, backward and update on one batch, in micro-batches."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.data.batches import Position
from asr.data.dataset import Batch, Unreadable
from asr.models.batch_norm import MaskedBatchNorm2d
from asr.models.ctc import ctc_losses
from asr.models.deep_speech2 import ModelOutput
from asr.training.compute import Compute
from asr.training.distributed import World, unsynchronised
from asr.training.memory import out_of_memory_explained


class BatchStats(NamedTuple):
    """Counts of a batch. audio_seconds and valid_frames exclude padding; frames include it."""

    ids: list[str]
    unreadable: list[Unreadable]
    audio_seconds: float
    frames: int
    valid_frames: int

    @classmethod
    def of(cls, micro_batches: Sequence[Batch], world: World) -> "BatchStats":
        """Sum up the micro-batches of all processes."""
        own = cls(
            [id for batch in micro_batches for id in batch.ids],
            [one for batch in micro_batches for one in batch.unreadable],
            sum(batch.seconds for batch in micro_batches),
            sum(len(batch.ids) * batch.features.shape[2] for batch in micro_batches),
            sum(int(batch.lengths.sum()) for batch in micro_batches),
        )
        ids, unreadable, *numbers = zip(*world.gather(own, world.steps), strict=True)
        return cls(list(chain(*ids)), list(chain(*unreadable)), *map(sum, numbers))


class StepMetrics(NamedTuple):
    """One training step, over all processes. learning_rate is the one that was used; audio_seconds exclude padding.

    updated: whether the weights were: not if loss or grad_norm is not finite, or no utterance could be read
    wall_seconds: without waiting for data
    """

    position: Position
    ids: list[str]
    unreadable: list[Unreadable]
    loss: float
    learning_rate: float
    grad_norm: float
    updated: bool
    audio_seconds: float
    wall_seconds: float
    padding_share: float

    @property
    def audio_seconds_per_second(self) -> float:
        return self.audio_seconds / self.wall_seconds


def batch_losses(model: nn.Module, batch: Batch, compute: Compute) -> tuple[Tensor, ModelOutput]:
    """Return the CTC loss of each utterance (B,) and the model's output."""
    features, targets = (t.to(compute.device, non_blocking=True) for t in (batch.features, batch.targets))
    with compute.autocast():
        output = model(features, batch.lengths)
    # The loss needs all lengths on the CPU.
    return ctc_losses(output.log_probs, output.lengths, targets, batch.target_lengths), output


def train_step(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    max_grad_norm: float,
    compute: Compute,
) -> StepMetrics:
    """Run forward and backward on each micro-batch, clip the gradient, update the weights and the learning rate.

    The gradient is that of the mean loss over the utterances of all processes. Where it or the loss is not finite, or
    no utterance of the batch could be read, neither weights nor batch norm's statistics are updated. The schedule is
    stepped all the same, since its steps are those of the run.
    """
    start, learning_rate = time.perf_counter(), optimizer.param_groups[0]["lr"]
    stats = BatchStats.of(micro_batches, compute.world)
    loss, grad_norm = math.nan, math.nan
    if stats.ids:
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        optimizer.zero_grad()
        total = backward(model, micro_batches, len(stats.ids), compute)
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        loss, grad_norm = torch.stack((total, norm)).tolist()  # a step waits for the device here only
        if math.isfinite(loss) and math.isfinite(grad_norm):
            optimizer.step()
        else:
            for buffer, before in buffers:
                buffer.copy_(before)
    scheduler.step()
    return StepMetrics(
        position=micro_batches[0].position,
        ids=stats.ids,
        unreadable=stats.unreadable,
        loss=loss,
        learning_rate=learning_rate,
        grad_norm=grad_norm,
        updated=math.isfinite(loss) and math.isfinite(grad_norm),
        audio_seconds=stats.audio_seconds,
        wall_seconds=time.perf_counter() - start,
        padding_share=1 - stats.valid_frames / max(1, stats.frames),
    )


def backward(model: nn.Module, micro_batches: Sequence[Batch], utterances: int, compute: Compute) -> Tensor:
    """Accumulate the gradient of the mean loss over all utterances, and return that loss ().

    utterances: number in all processes, whose gradients the model averages after the last micro-batch
    """
    world, total, mels = compute.world, torch.zeros((), device=compute.device), micro_batches[0].features.shape[1]
    for number, batch in enumerate(micro_batches, start=1):
        synchronised = nullcontext() if number == len(micro_batches) else unsynchronised(model)
        with out_of_memory_explained(batch, compute.device, compute.bf16), synchronised:
            losses = batch_losses(model, batch, compute)[0] if batch.ids else zero_loss(model, mels, compute)
            loss = losses.sum() / utterances
            (loss * world.size).backward()
        total += loss.detach()
    return world.total(total)


def zero_loss(model: nn.Module, mels: int, compute: Compute) -> Tensor:
    """Return a loss of zero that depends on every weight, for a process without an utterance of a batch.

    One frame of silence, which batch norm leaves out, lets it take part in what the processes compute together.
    mels: height of the spectrogram
    """
    norms = [module for module in model.modules() if isinstance(module, MaskedBatchNorm2d)]
    features = torch.zeros(1, mels, 1, device=compute.device)
    for norm in norms:
        norm.counts = False
    with compute.autocast():
        silence = model(features, torch.ones(1, dtype=torch.long)).log_probs
    for norm in norms:
        norm.counts = True
    return silence * 0
