"""The outer loop: epochs of training steps, each followed by a look at dev."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from asr.data.batches import Position
from asr.data.dataset import Batch
from asr.data.text import Alphabet
from asr.training.checkpoint import EpochTotals
from asr.training.compute import Compute
from asr.training.evaluation import Evaluation, evaluate
from asr.training.loop import EpochSummary, train_epoch
from asr.training.state import TrainState
from asr.training.step import StepMetrics


def fit(
    state: TrainState,
    model: nn.Module,
    batches: Iterator[Batch],
    dev_batches: Callable[[], Iterable[Batch]],
    alphabet: Alphabet,
    compute: Compute,
    *,
    epochs: int,
    steps_per_epoch: int,
    max_grad_norm: float,
    monitor: str,
    accumulate: int,
    read_every: int,
    ask: Callable[[], int],
    on_step: Callable[[TrainState, StepMetrics], None],
    on_read: Callable[[TrainState, int], None],
    on_epoch: Callable[[TrainState, bool], None],
) -> None:
    """Trains until `epochs` are done; after each it scores dev and tells on_epoch whether that is the best so far.

    state:   where to start, which may be within an epoch; it can go on from there, whatever ends it in on_read, in the
             evaluation or in on_epoch
    model:   that of the state, or what all processes train of it together
    monitor: the dev score whose lowest value is the best: loss, wer, cer, mean_wer or mean_cer
    accumulate, read_every, ask: as in train_epoch
    on_step: told of each step, in order, when it is read; the model may be some steps further
    on_read: then told what was asked for; now the whole state is that of the last step
    """

    def after_steps(steps: list[StepMetrics], answer: int) -> None:
        for metrics in steps:
            state.step += 1
            state.position = Position(metrics.position.pass_number, metrics.position.batch_index + 1)
            non_finite = bool(metrics.ids) and not metrics.updated
            state.non_finite_in_a_row = state.non_finite_in_a_row + 1 if non_finite else 0
            on_step(state, metrics)
        on_read(state, answer)

    while state.epoch < epochs:
        trained = train_epoch(
            model, batches, steps_per_epoch, state.this_epoch, state.optimizer, state.scheduler, max_grad_norm,
            compute, accumulate=accumulate, read_every=read_every, ask=ask, on_read=after_steps,
        )  # fmt: skip
        compute.world.share_buffers(state.model)
        dev = evaluate(state.model, dev_batches(), alphabet, compute)
        state.epoch += 1
        state.this_epoch = EpochTotals()
        state.history.append(epoch_record(state, trained, dev))
        score = dev.as_metrics()[monitor]
        better = math.isfinite(score) and (state.best is None or score < state.best)
        state.best = score if better else state.best
        on_epoch(state, better)


def epoch_record(state: TrainState, trained: EpochSummary, dev: Evaluation) -> dict[str, Any]:
    """What an epoch leaves in history.jsonl and MLflow; audio_seconds_per_second includes waiting for data."""
    return {
        "epoch": state.epoch,
        "step": state.step,
        "learning_rate": state.scheduler.get_last_lr()[0],
        **{f"train_{name}": value for name, value in trained._asdict().items()},
        "train_audio_seconds_per_second": trained.audio_seconds / trained.wall_seconds,
        "dev_unalignable": dev.unalignable,
        "dev_wall_seconds": dev.wall_seconds,
        **{f"dev_{name}": value for name, value in dev.as_metrics().items()},
    }
