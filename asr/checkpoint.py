"""Checkpoints: written so that a kill at any moment leaves a whole file, read so that no code in them can run."""

import os
import pickle
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.errors import InputError, first_line

FORMAT = 1


@dataclass
class Checkpoint:
    """All that a run needs to go on, or another to start from its weights.

    config:    the resolved config of the run, plain dicts and lists
    progress:  epoch, step, and the position in the data from which the next batch comes
    history:   a record of every finished epoch
    best:      the dev score of the best epoch so far, or null
    rng:       torch's CPU generator (dropout)
    """

    config: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    progress: dict[str, Any]
    history: list[dict[str, Any]]
    best: float | None
    rng: torch.Tensor
    format: int = FORMAT


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes beside, syncs to disk and renames, so that `path` is always a whole checkpoint."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        # A shallow dict: asdict would copy every tensor.
        torch.save({field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint to the CPU; InputError if there is none, it cannot be read, or it is no checkpoint of ours."""
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file; a run writes best.pt and last.pt into its directory")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            f"checkpoint {path}: cannot be read ({first_line(error)}); use another, such as last.pt"
        ) from error
    names = {field.name for field in fields(Checkpoint)}
    if not isinstance(content, dict) or set(content) != names or content["format"] != FORMAT:
        raise InputError(
            f"checkpoint {path}: not a checkpoint of this suite in format {FORMAT}; "
            f"it must hold {', '.join(sorted(names))}"
        )
    return Checkpoint(**content)


def load_weights(model: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Puts weights into the model; InputError that names what differs if they are those of another model."""
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    if missing or unknown or shapes:
        parts = [
            f"{len(missing)} weights are missing ({missing[0]}, ...)" if missing else "",
            f"{len(unknown)} are unknown ({unknown[0]}, ...)" if unknown else "",
            f"{shapes[0]} is {list(weights[shapes[0]].shape)} where the model has {list(own[shapes[0]].shape)}"
            if shapes
            else "",
        ]
        raise InputError(
            f"checkpoint {path} is of another model: {'; '.join(p for p in parts if p)}. "
            "Choose the model group, features and alphabet that it was trained with (its config says which)"
        )
    model.load_state_dict(weights)


@dataclass
class TrainState:
    """Everything that changes while a run trains.

    position: (pass over the data, batch within it) of the next batch; step, epoch: how many are done
    history:  a record of every finished epoch; best: the lowest monitored dev score so far
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    position: tuple[int, int] = (0, 0)
    step: int = 0
    epoch: int = 0
    best: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_checkpoint(self, config: dict[str, Any]) -> Checkpoint:
        """The state and the config that it belongs to."""
        return Checkpoint(
            config=config,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            progress={"epoch": self.epoch, "step": self.step, "position": tuple(self.position)},
            history=self.history,
            best=self.best,
            rng=torch.get_rng_state(),
        )

    def restore(self, saved: Checkpoint, path: Path) -> None:
        """Goes back to the moment of the checkpoint."""
        load_weights(self.model, saved.model, path)
        self.optimizer.load_state_dict(saved.optimizer)
        self.scheduler.load_state_dict(saved.scheduler)
        self.epoch, self.step = saved.progress["epoch"], saved.progress["step"]
        self.position = tuple(saved.progress["position"])
        self.history, self.best = saved.history, saved.best
        torch.set_rng_state(saved.rng)
