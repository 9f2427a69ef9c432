"""The training step: a batch, in pieces, becomes an update of the weights. It knows no config."""

import math
import time
from collections.abc import Iterable, Sequence
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


class Work(NamedTuple):
    """What a step is computed from. audio_seconds exclude padding; frames include it, valid_frames do not."""

    ids: list[str]
    unreadable: list[Unreadable]
    audio_seconds: float
    frames: int
    valid_frames: int

    @classmethod
    def of(cls, pieces: Sequence[Batch]) -> "Work":
        """Of all pieces of a batch."""
        return cls(
            [id for piece in pieces for id in piece.ids],
            [one for piece in pieces for one in piece.unreadable],
            sum(piece.seconds for piece in pieces),
            sum(len(piece.ids) * piece.features.shape[2] for piece in pieces),
            sum(int(piece.lengths.sum()) for piece in pieces),
        )

    @classmethod
    def total(cls, works: Iterable["Work"]) -> "Work":
        """Of all processes."""
        ids, unreadable, *numbers = zip(*works, strict=True)
        return cls(list(chain(*ids)), list(chain(*unreadable)), *map(sum, numbers))


class Step(NamedTuple):
    """A training step whose results are still on the device, so that the host need not wait for them.

    results: (3,) loss, gradient norm, and whether the weights were updated (1 or 0)
    started: of time.perf_counter
    """

    position: Position
    work: Work
    learning_rate: float
    results: Tensor
    started: float


class StepMetrics(NamedTuple):
    """One training step. learning_rate is the one that was used; audio_seconds exclude padding.

    updated: whether the weights were: not if loss or grad_norm is not finite, or no utterance could be read
    wall_seconds: without waiting for data; where several steps are read at once, their mean, with waiting in between
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


def batch_losses(model: nn.Module, batch: Batch, compute: Compute) -> tuple[Tensor, ModelOutput]:
    """The CTC loss of each utterance (B,), and what the model gave."""
    features, targets = (t.to(compute.device, non_blocking=True) for t in (batch.features, batch.targets))
    with compute.autocast():
        output = model(features, batch.lengths)
    # All lengths stay on the CPU, where the loss wants them.
    return ctc_losses(output.log_probs, output.lengths, targets, batch.target_lengths), output


def train_step(
    model: nn.Module,
    pieces: Sequence[Batch],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    max_grad_norm: float,
    compute: Compute,
) -> Step:
    """Forward and backward of each piece of a batch, clip, update, next learning rate.

    The gradient is that of the mean loss over the utterances of all processes. Where it or the loss is not finite, or
    the batch has lost all its utterances, nothing is updated: neither weights nor batch norm's statistics. The schedule
    goes on, since its steps are those of the run.
    """
    started, learning_rate = time.perf_counter(), optimizer.param_groups[0]["lr"]
    work = Work.of(pieces)
    if utterances := compute.world.sum(len(work.ids)):
        before = [buffer.clone() for buffer in model.buffers()]
        optimizer.zero_grad()
        loss = backward(model, pieces, utterances, compute)
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        finite = loss.isfinite() & norm.isfinite()
        step_if(finite, optimizer)
        for buffer, old in zip(model.buffers(), before, strict=True):
            buffer.copy_(torch.where(finite, buffer, old))
        results = torch.stack((loss, norm, finite))
    else:
        results = torch.tensor([math.nan, math.nan, 0.0], device=compute.device)
    scheduler.step()
    return Step(pieces[0].position, work, learning_rate, results, started)


def backward(model: nn.Module, pieces: Sequence[Batch], utterances: int, compute: Compute) -> Tensor:
    """Adds to the gradient that of the mean loss over all utterances, piece by piece, and returns that loss.

    utterances: of all processes, whose gradients the model averages with the last piece
    """
    world, total, mels = compute.world, torch.zeros((), device=compute.device), pieces[0].features.shape[1]
    for number, piece in enumerate(pieces, start=1):
        synchronised = nullcontext() if number == len(pieces) else unsynchronised(model)
        with out_of_memory_explained(piece, compute.device, compute.bf16), synchronised:
            losses = batch_losses(model, piece, compute)[0] if piece.ids else no_losses(model, mels, compute)
            loss = losses.sum() / utterances
            (loss * world.size).backward()
        total += loss.detach()
    return world.total(total)


def no_losses(model: nn.Module, mels: int, compute: Compute) -> Tensor:
    """Zero, and of every weight a gradient of zero: the part of a process that has no utterance of a batch.

    What the processes do together it must do too, so it computes one frame of silence, which batch norm leaves out.
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


def step_if(finite: Tensor, optimizer: Optimizer) -> None:
    """Updates the weights where `finite` (), on the device, is true.

    Fused optimizers are told on the device. For others the host waits for the verdict, and for SGD whose momentum is
    not there yet: it would leave it uninitialised.
    source: torch.amp.GradScaler, which skips its steps so
    """
    needs_momentum = not optimizer.state and any(group.get("momentum") for group in optimizer.param_groups)
    if getattr(optimizer, "_step_supports_amp_scaling", False) and not needs_momentum:
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:
        optimizer.step()


def read(steps: Sequence[Step], world: World) -> list[StepMetrics]:
    """The steps of all processes, with their results as numbers, for which the host waits once."""
    works = [Work.total(shares) for shares in zip(*world.gather([step.work for step in steps]), strict=True)]
    results = torch.stack([step.results for step in steps]).tolist()
    wall_seconds = (time.perf_counter() - steps[0].started) / len(steps)
    return [
        StepMetrics(
            step.position, work.ids, work.unreadable, loss, step.learning_rate, grad_norm, bool(updated),
            work.audio_seconds, wall_seconds, 1 - work.valid_frames / max(1, work.frames),
        )
        for step, work, (loss, grad_norm, updated) in zip(steps, works, results, strict=True)
    ]  # fmt: skip
