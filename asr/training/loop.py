"""The epoch and the evaluation: plain functions that know no config."""

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.data.dataset import Batch
from asr.training.checkpoint import EpochTotals
from asr.training.compute import Compute
from asr.training.step import Step, StepMetrics, read, train_step


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
