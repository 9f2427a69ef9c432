"""The training step, the epoch and the evaluation: plain functions that know no config."""

import math
import time
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

from asr.dataset import Batch
from asr.decode import greedy
from asr.errors import InputError
from asr.loss import alignable, ctc_losses
from asr.metrics import ErrorRates, Scored, score
from asr.model import ModelOutput
from asr.provenance import processor
from asr.text import Alphabet


class DivergedError(InputError):
    """A loss, a gradient or a score is not finite."""


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
    """One training step. learning_rate is the one that was used; audio_seconds exclude padding."""

    loss: float
    learning_rate: float
    grad_norm: float
    audio_seconds: float
    wall_seconds: float
    padding_share: float


class EpochSummary(NamedTuple):
    """Means over the steps of an epoch, and its sums."""

    loss: float
    grad_norm: float
    padding_share: float
    utterances: int
    audio_seconds: float
    wall_seconds: float


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
    """Forward, backward, clip, update, next learning rate; DivergedError if the loss or a gradient is not finite."""
    start = time.perf_counter()
    learning_rate = optimizer.param_groups[0]["lr"]
    loss = batch_losses(model, batch, compute)[0].mean()
    optimizer.zero_grad()
    loss.backward()
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm).item()
    if not (math.isfinite(grad_norm) and math.isfinite(loss.item())):
        raise DivergedError(
            f"the loss is {loss.item()} and the gradient norm {grad_norm} on utterances {', '.join(batch.ids)} at a "
            f"learning rate of {learning_rate:.2e}: both must be finite; lower the learning rate or max_grad_norm. "
            "Checkpoints of earlier epochs are whole"
        )
    optimizer.step()
    scheduler.step()
    return StepMetrics(
        loss.item(), learning_rate, grad_norm, batch.seconds, time.perf_counter() - start, batch.padding_share
    )


def train_epoch(
    model: nn.Module,
    batches: Iterator[Batch],
    steps: int,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    max_grad_norm: float,
    compute: Compute,
    on_step: Callable[[Batch, StepMetrics], None],
) -> EpochSummary:
    """Trains on the next `steps` batches. on_step is told of each; an epoch's wall time includes waiting for data."""
    model.train()
    start, utterances, metrics = time.perf_counter(), 0, []
    for batch in islice(batches, steps):
        step = train_step(model, batch, optimizer, scheduler, max_grad_norm, compute)
        metrics.append(step)
        utterances += len(batch.ids)
        on_step(batch, step)
    return EpochSummary(
        loss=sum(m.loss for m in metrics) / len(metrics),
        grad_norm=sum(m.grad_norm for m in metrics) / len(metrics),
        padding_share=sum(m.padding_share for m in metrics) / len(metrics),
        utterances=utterances,
        audio_seconds=sum(m.audio_seconds for m in metrics),
        wall_seconds=time.perf_counter() - start,
    )


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], alphabet: Alphabet, compute: Compute) -> Evaluation:
    """Loss and greedy transcripts of every utterance, in eval mode, which the model is left in."""
    model.eval()
    start, audio_seconds, unalignable = time.perf_counter(), 0.0, 0
    losses: list[float] = []
    scored: list[Scored] = []
    for batch in batches:
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
