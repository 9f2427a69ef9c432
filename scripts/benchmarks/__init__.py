"""The parts of scripts/bench.py, and the record that each gives."""

from typing import NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from asr.cli import CONF


class Figure(NamedTuple):
    """One line of the table. target: what it should reach, empty where nothing was set; note: how it came about."""

    part: str
    what: str
    value: float
    unit: str
    target: str = ""
    reached: bool | None = None
    note: str = ""


def composed(overrides: list[str]) -> DictConfig:
    """The config that `python -m asr.train` makes of these overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["output_dir=outputs", *overrides])
