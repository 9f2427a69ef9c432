"""The training step, the epoch and the evaluation: plain functions that know no config."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.checkpoint import EpochTotals
from asr.dataset import Batch
from asr.decode import greedy
from asr.loss import alignable, ctc_losses
from asr.memory import EVALUATION_SETTINGS, out_of_memory_explained
from asr.metrics import ErrorRates, Scored, score
from asr.model import ModelOutput
from asr.provenance import processor
from asr.text import Alphabet

# If the first step of all updates nothing, the schedule is stepped before the optimizer, as it must be here.
warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")


@dataclass(frozen=True)
class Compute:
    """Where and how precisely the model runs: bf16 is autocast, with the loss in float32."""

    device: torch.device
    bf16: bool

    @property
    def pin_memory(self) -> bool:
        """Whether batches go to the device faster from page-locked memory."""
        return self.device.type == "cuda"

    def describe(self) -> str:
        """The device and the precision, as people name them."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            threads = torch.get_num_threads()
            name = f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"
        return f"{self.device} ({name}), {'bf16' if self.bf16 else 'float32'}"

    def autocast(self) -> AbstractContextManager:
        """The context of every forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


class StepMetrics(NamedTuple):
    """One training step. learning_rate is the one that was used; audio_seconds exclude padding.

    updated: whether the weights were: not if loss or grad_norm is not finite, or no utterance could be read
    """

    loss: float
    learning_rate: float
    grad_norm: float
    updated: bool
    audio_seconds: float
    wall_seconds: float
    padding_share: float


class EpochSummary(NamedTuple):
    """Means over the steps of an epoch (loss and grad_norm: over those that updated the weights), and its sums."""

    loss: float
    grad_norm: float
    padding_share: float
    utterances: int
    audio_seconds: float
    wall_seconds: float
    non_finite: int
    unreadable: int

    @classmethod
    def of(cls, totals: EpochTotals) -> "EpochSummary":
        """loss and grad_norm are not a number where no step updated the weights."""
        return cls(
            loss=totals.loss / totals.updates if totals.updates else math.nan,
            grad_norm=totals.grad_norm / totals.updates if totals.updates else math.nan,
            padding_share=totals.padding_share / totals.steps,
            utterances=totals.utterances,
            audio_seconds=totals.audio_seconds,
            wall_seconds=totals.wall_seconds,
            non_finite=totals.non_finite,
            unreadable=totals.unreadable,
        )


@dataclass(frozen=True)
class Evaluation:
    """loss: mean over utterances, nats a symbol; unalignable: utterances that CTC cannot align, which count 0 in it."""

    loss: float
    unalignable: int
    scored: list[Scored]
    audio_seconds: float
    wall_seconds: float

    @cached_property
    def rates(self) -> ErrorRates:
        """Word and character errors over all utterances."""
        return ErrorRates.of(self.scored)

    def as_metrics(self) -> dict[str, float]:
        """Flat names, as they are logged."""
        return {"loss": self.loss, **self.rates.as_metrics()}


def batch_losses(model: nn.Module, batch: Batch, compute: Compute) -> tuple[Tensor, ModelOutput]:
    """The CTC loss of each utterance (B,), and what the model gave."""
    features, targets = (t.to(compute.device, non_blocking=True) for t in (batch.features, batch.targets))
    with compute.autocast():
        output = model(features, batch.lengths)
    # The target lengths stay on the CPU, where the loss wants them.
    return ctc_losses(output.log_probs, output.lengths, targets, batch.target_lengths), output


def train_step(
    model: nn.Module, batch: Batch, optimizer: Optimizer, scheduler: LRScheduler, max_grad_norm: float, compute: Compute
) -> StepMetrics:
    """Forward, backward, clip, update, next learning rate.

    Where the loss or the gradient is not finite, or the batch has lost all its utterances, nothing is updated: neither
    weights nor batch norm's statistics. The schedule goes on, since its steps are those of the run.
    """
    start = time.perf_counter()
    learning_rate = optimizer.param_groups[0]["lr"]
    loss = grad_norm = math.nan
    if batch.ids:
        buffers = [buffer.clone() for buffer in model.buffers()]
        with out_of_memory_explained(batch, compute.device, compute.bf16):
            batch_loss = batch_losses(model, batch, compute)[0].mean()
            optimizer.zero_grad()
            batch_loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        loss, grad_norm = batch_loss.item(), norm.item()
    updated = math.isfinite(loss) and math.isfinite(grad_norm)
    if updated:
        optimizer.step()
    elif batch.ids:
        optimizer.zero_grad()
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    scheduler.step()
    wall_seconds = time.perf_counter() - start
    return StepMetrics(loss, learning_rate, grad_norm, updated, batch.seconds, wall_seconds, batch.padding_share)


def train_epoch(
    model: nn.Module,
    batches: Iterator[Batch],
    steps: int,
    totals: EpochTotals,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    max_grad_norm: float,
    compute: Compute,
    on_step: Callable[[Batch, StepMetrics], None],
) -> EpochSummary:
    """Trains on as many batches as the epoch still has, from `totals` on, and counts them there.

    on_step is told of each step; an epoch's wall time includes waiting for data.
    """
    model.train()
    start = time.perf_counter()
    for batch in islice(batches, steps - totals.steps):
        step = train_step(model, batch, optimizer, scheduler, max_grad_norm, compute)
        now = time.perf_counter()
        count_step(totals, batch, step, now - start)
        start = now
        on_step(batch, step)
    return EpochSummary.of(totals)


def count_step(totals: EpochTotals, batch: Batch, step: StepMetrics, wall_seconds: float) -> None:
    """Adds a step to the sums of its epoch."""
    totals.steps += 1
    totals.padding_share += step.padding_share
    totals.utterances += len(batch.ids)
    totals.audio_seconds += step.audio_seconds
    totals.wall_seconds += wall_seconds
    totals.unreadable += len(batch.unreadable)
    if step.updated:
        totals.updates += 1
        totals.loss += step.loss
        totals.grad_norm += step.grad_norm
    elif batch.ids:
        totals.non_finite += 1


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], alphabet: Alphabet, compute: Compute) -> Evaluation:
    """Loss and greedy transcripts of every utterance, in eval mode, which the model is left in."""
    model.eval()
    start, audio_seconds, unalignable = time.perf_counter(), 0.0, 0
    losses: list[float] = []
    scored: list[Scored] = []
    for batch in batches:
        with out_of_memory_explained(batch, compute.device, compute.bf16, settings=EVALUATION_SETTINGS):
            batch_loss, (log_probs, lengths) = batch_losses(model, batch, compute)
        losses += batch_loss.tolist()
        unalignable += int((~alignable(lengths.cpu(), batch.targets, batch.target_lengths)).sum())
        texts = greedy(log_probs, lengths, alphabet)
        scored += [score(*one) for one in zip(batch.ids, batch.references, texts, strict=True)]
        audio_seconds += batch.seconds
    return Evaluation(
        loss=sum(losses) / max(1, len(losses)),
        unalignable=unalignable,
        scored=scored,
        audio_seconds=audio_seconds,
        wall_seconds=time.perf_counter() - start,
    )
