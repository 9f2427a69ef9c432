"""Everything that changes while a run trains."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.data.batches import Position
from asr.errors import InputError, first_line
from asr.training.checkpoint import Checkpoint, load_weights
from asr.training.distributed import SINGLE_PROCESS, World
from asr.training.evaluation import Evaluation
from asr.training.step import StepMetrics


def generators() -> dict[str, Any]:
    """Return the states of torch's generators in this process."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


@dataclass
class EpochTotals:
    """Sums over the steps of an epoch so far, from which an interrupted epoch ends with the same means.

    updates:    steps that changed the weights: the sums of loss and grad_norm are over these
    non_finite: steps that were skipped, as the loss or the gradient was not finite
    unreadable: utterances that were left out of their batches
    """

    steps: int = 0
    updates: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    padding_share: float = 0.0
    utterances: int = 0
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    non_finite: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class EpochRecord:
    """A finished epoch: its fields are the keys of history.jsonl and, as train/... and dev/..., of MLflow's metrics.

    step:            steps of the run so far; learning_rate: after the last of them
    train_loss, train_grad_norm: means over the steps that updated the weights; nan if none did
    train_padding_share: mean over all steps
    train_wall_seconds, train_audio_seconds_per_second: with the time spent waiting for data
    train_non_finite: steps that were skipped; train_unreadable: utterances that were left out
    dev_loss:        mean over utterances, in nats; dev_unalignable: utterances too short for their text
    dev_wer, dev_cer: of the corpus; dev_mean_wer, dev_mean_cer: means over utterances
    dev_blank_share: frames whose most likely class is the blank, over all frames
    dev_symbol_ratio: symbols of the hypotheses over those of the references, without spaces
    dev_symbol_entropy: of the references, in nats: about the loss of a model that ignores the audio
    dev_examples:    id, reference and hypothesis of the same three utterances in every epoch; not logged as a metric
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_grad_norm: float
    train_padding_share: float
    train_utterances: int
    train_audio_seconds: float
    train_wall_seconds: float
    train_non_finite: int
    train_unreadable: int
    train_audio_seconds_per_second: float
    dev_unalignable: int
    dev_wall_seconds: float
    dev_loss: float
    dev_wer: float
    dev_cer: float
    dev_mean_wer: float
    dev_mean_cer: float
    dev_word_substitutions: int
    dev_word_deletions: int
    dev_word_insertions: int
    dev_words: int
    dev_blank_share: float
    dev_symbol_ratio: float
    dev_symbol_entropy: float
    dev_examples: list[dict[str, str]]


@dataclass
class TrainState:
    """Everything that changes while a run trains.

    position: (epoch of the data, batch within it) of the next batch; step, epoch: how many are done
    history:  an EpochRecord of every finished epoch, as a dict
    best:     the lowest monitored dev score so far; is_best: whether the last epoch had it
    non_finite_in_a_row: steps that were skipped since the last update
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    position: Position = Position(0, 0)  # noqa: RUF009
    step: int = 0
    epoch: int = 0
    this_epoch: EpochTotals = field(default_factory=EpochTotals)
    non_finite_in_a_row: int = 0
    best: float | None = None
    is_best: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def count(self, metrics: StepMetrics, wall_seconds: float) -> None:
        """Add a step to the run and to the sums of its epoch."""
        self.step += 1
        self.position = Position(metrics.position.data_epoch, metrics.position.batch_index + 1)
        non_finite = bool(metrics.ids) and not metrics.updated
        self.non_finite_in_a_row = self.non_finite_in_a_row + 1 if non_finite else 0
        totals = self.this_epoch
        totals.steps += 1
        totals.padding_share += metrics.padding_share
        totals.utterances += len(metrics.ids)
        totals.audio_seconds += metrics.audio_seconds
        totals.wall_seconds += wall_seconds
        totals.unreadable += len(metrics.unreadable)
        totals.non_finite += non_finite
        if metrics.updated:
            totals.updates += 1
            totals.loss += metrics.loss
            totals.grad_norm += metrics.grad_norm

    def end_epoch(self, dev: Evaluation, monitor: str) -> None:
        """Record an epoch that has been trained and scored.

        monitor: the dev score whose lowest value is the best: loss, wer, cer, mean_wer or mean_cer
        """
        totals, self.this_epoch = self.this_epoch, EpochTotals()
        self.epoch += 1
        record = EpochRecord(
            epoch=self.epoch,
            step=self.step,
            learning_rate=float(self.scheduler.get_last_lr()[0]),
            train_loss=totals.loss / totals.updates if totals.updates else math.nan,
            train_grad_norm=totals.grad_norm / totals.updates if totals.updates else math.nan,
            train_padding_share=totals.padding_share / totals.steps,
            train_utterances=totals.utterances,
            train_audio_seconds=totals.audio_seconds,
            train_wall_seconds=totals.wall_seconds,
            train_non_finite=totals.non_finite,
            train_unreadable=totals.unreadable,
            train_audio_seconds_per_second=totals.audio_seconds / totals.wall_seconds,
            dev_unalignable=dev.unalignable,
            dev_wall_seconds=dev.wall_seconds,
            dev_examples=dev.examples(),
            **{f"dev_{name}": value for name, value in dev.as_metrics().items()},  # type: ignore[arg-type]
        )
        self.history.append(asdict(record))
        score = dev.as_metrics()[monitor]
        self.is_best = math.isfinite(score) and (self.best is None or score < self.best)
        if self.is_best:
            self.best = score

    def to_checkpoint(self, config: dict[str, Any], others: Sequence[dict[str, Any]] = ()) -> Checkpoint:
        """Return a checkpoint of this state, its config, and the generators of this and the other processes."""
        return Checkpoint(
            config=config,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            progress={
                "epoch": self.epoch,
                "step": self.step,
                "position": tuple(self.position),
                "this_epoch": asdict(self.this_epoch),
                "non_finite_in_a_row": self.non_finite_in_a_row,
            },
            history=self.history,
            best=self.best,
            rng={**generators(), "others": list(others)},
        )

    def restore(self, saved: Checkpoint, path: Path, world: World = SINGLE_PROCESS) -> None:
        """Load the state of a checkpoint.

        Each process has random generators of its own, for dropout. If the number of processes has changed, they are
        seeded anew.

        raises: InputError if the checkpoint is of another model, optimizer or schedule
        """
        load_weights(self.model, saved.model, path)
        progress = saved.progress
        try:
            self.optimizer.load_state_dict(saved.optimizer)
            self.scheduler.load_state_dict(saved.scheduler)
            self.this_epoch = EpochTotals(**progress["this_epoch"])
            if saved.processes == world.size:
                rng = [saved.rng, *saved.rng["others"]][world.rank]
                torch.set_rng_state(rng["cpu"])
                if len(rng["cuda"]) == torch.cuda.device_count():  # else another machine, with numbers of its own
                    torch.cuda.set_rng_state_all(rng["cuda"])
            else:
                torch.manual_seed(saved.config["seed"] + 1_000_003 * progress["step"] + world.rank)
        except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
            raise InputError(f"checkpoint {path} is of another optimizer or schedule: {first_line(error)}") from error
        for weight, state in self.optimizer.state.items():
            shapes = {value.shape for value in state.values() if isinstance(value, Tensor) and value.dim()}
            if shapes - {weight.shape}:
                raise InputError(f"checkpoint {path}: its optimizer's state has the shapes of another model")
        self.epoch, self.step, self.position = progress["epoch"], progress["step"], Position(*progress["position"])
        self.non_finite_in_a_row = progress["non_finite_in_a_row"]
        self.history, self.best = saved.history, saved.best
