"""The parts of scripts/bench.py, and the record that each gives."""

import socket
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from asr.cli import CONF


class Figure(NamedTuple):
    """One line of the table. target: what it should reach; None where nothing was set."""

    part: str
    what: str
    value: float
    unit: str
    target: float | None = None
    note: str = ""
    at_most: bool = False  # the target is an upper bound

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def composed(overrides: list[str]) -> DictConfig:
    """The config that `python -m asr.train` makes of these overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["output_dir=outputs", *overrides])


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
