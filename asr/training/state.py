"""Everything that changes while a run trains."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.errors import InputError, first_line
from asr.training.checkpoint import Checkpoint, EpochTotals, load_weights


def generators() -> dict[str, Any]:
    """The states of torch's generators in this process."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


@dataclass
class TrainState:
    """Everything that changes while a run trains.

    position: (pass over the data, batch within it) of the next batch; step, epoch: how many are done
    history:  a record of every finished epoch; best: the lowest monitored dev score so far
    non_finite_in_a_row: steps that were skipped since the last update
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    position: tuple[int, int] = (0, 0)
    step: int = 0
    epoch: int = 0
    this_epoch: EpochTotals = field(default_factory=EpochTotals)
    non_finite_in_a_row: int = 0
    best: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_checkpoint(self, config: dict[str, Any], others: Sequence[dict[str, Any]] = ()) -> Checkpoint:
        """The state, the config that it belongs to, and the generators of the other processes."""
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

    def restore(self, saved: Checkpoint, path: Path, rank: int = 0) -> None:
        """Goes back to the moment of the checkpoint; InputError if it is of another model or optimizer.

        rank: of this process, which has generators of its own
        """
        load_weights(self.model, saved.model, path)
        try:
            self.optimizer.load_state_dict(saved.optimizer)
            self.scheduler.load_state_dict(saved.scheduler)
            rng = saved.rng["others"][rank - 1] if rank else saved.rng
            torch.set_rng_state(rng["cpu"])
            cuda = rng["cuda"]
            if cuda and len(cuda) == torch.cuda.device_count():  # else another machine, which has numbers of its own
                torch.cuda.set_rng_state_all(cuda)
        except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
            raise InputError(f"checkpoint {path} is of another optimizer or schedule: {first_line(error)}") from error
        for weight, state in self.optimizer.state.items():
            shapes = {value.shape for value in state.values() if isinstance(value, Tensor) and value.dim()}
            if shapes - {weight.shape}:
                raise InputError(f"checkpoint {path}: its optimizer's state has the shapes of another model")
        progress = saved.progress
        self.epoch, self.step, self.position = progress["epoch"], progress["step"], tuple(progress["position"])
        self.this_epoch = EpochTotals(**progress["this_epoch"])
        self.non_finite_in_a_row = progress["non_finite_in_a_row"]
        self.history, self.best = saved.history, saved.best
