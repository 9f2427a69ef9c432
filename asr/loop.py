"""The epoch and the evaluation: plain functions that know no config."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.batching import Position
from asr.checkpoint import EpochTotals
from asr.dataset import Batch
from asr.decode import greedy
from asr.loss import alignable
from asr.memory import EVALUATION_SETTINGS, out_of_memory_explained
from asr.metrics import ErrorRates, Scored, score
from asr.step import Compute, Step, StepMetrics, batch_losses, read, train_step
from asr.text import Alphabet


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


def train_epoch(
    model: nn.Module,
    batches: Iterator[Batch],
    steps: int,
    totals: EpochTotals,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    max_grad_norm: float,
    compute: Compute,
    *,
    accumulate: int,
    read_every: int,
    ask: Callable[[], int],
    on_read: Callable[[list[StepMetrics], int], None],
) -> EpochSummary:
    """Trains on as many batches, of `accumulate` pieces each, as the epoch still has, and counts them in `totals`.

    ask:     asked after each step whether somebody waits for it to be read; 0 if not
    on_read: told of the steps that were read, and of the answer: every read_every steps, where somebody waits, and at
             the epoch's end; the model is then as the last of them left it

    An epoch's wall time includes waiting for data.
    """
    model.train()
    start = time.perf_counter()
    unread: list[Step] = []
    for number in range(totals.steps + 1, steps + 1):
        pieces = list(islice(batches, accumulate))
        unread.append(train_step(model, pieces, optimizer, scheduler, max_grad_norm, compute))
        answer = ask()
        if answer or len(unread) == read_every or number == steps:
            metrics = read(unread, compute.world)
            unread.clear()
            now = time.perf_counter()
            totals.wall_seconds += now - start
            start = now
            for step in metrics:
                count_step(totals, step)
            on_read(metrics, answer)
    return EpochSummary.of(totals)


def count_step(totals: EpochTotals, step: StepMetrics) -> None:
    """Adds a step to the sums of its epoch."""
    totals.steps += 1
    totals.padding_share += step.padding_share
    totals.utterances += len(step.ids)
    totals.audio_seconds += step.audio_seconds
    totals.unreadable += len(step.unreadable)
    if step.updated:
        totals.updates += 1
        totals.loss += step.loss
        totals.grad_norm += step.grad_norm
    elif step.ids:
        totals.non_finite += 1


class BatchScores(NamedTuple):
    """What an evaluation learns of a batch. losses: of each utterance; unalignable: as in Evaluation."""

    position: Position
    losses: list[float]
    unalignable: int
    scored: list[Scored]
    audio_seconds: float


def evaluate(model: nn.Module, batches: Iterable[Batch], alphabet: Alphabet, compute: Compute) -> Evaluation:
    """Loss and greedy transcripts of every utterance, in eval mode, which the model is left in.

    batches: the share of this process; the evaluation is of all of them, and the same in every process
    """
    model.eval()
    start = time.perf_counter()
    own = compute.world.together(lambda: [score_batch(model, batch, alphabet, compute) for batch in batches])
    scores = sorted(chain(*compute.world.gather(own)), key=lambda one: one.position)
    losses = [loss for one in scores for loss in one.losses]
    return Evaluation(
        loss=sum(losses) / max(1, len(losses)),
        unalignable=sum(one.unalignable for one in scores),
        scored=[utterance for one in scores for utterance in one.scored],
        audio_seconds=sum(one.audio_seconds for one in scores),
        wall_seconds=time.perf_counter() - start,
    )


@torch.inference_mode()
def score_batch(model: nn.Module, batch: Batch, alphabet: Alphabet, compute: Compute) -> BatchScores:
    """Of a model in eval mode."""
    with out_of_memory_explained(batch, compute.device, compute.bf16, settings=EVALUATION_SETTINGS):
        losses, (log_probs, lengths) = batch_losses(model, batch, compute)
    unalignable = int((~alignable(lengths, batch.targets, batch.target_lengths)).sum())
    texts = greedy(log_probs, lengths, alphabet)
    scored = [score(*one) for one in zip(batch.ids, batch.references, texts, strict=True)]
    return BatchScores(batch.position, losses.tolist(), unalignable, scored, batch.seconds)
