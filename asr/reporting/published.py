"""What the writeup reached and what LibriSpeech holds, as shipped in `writeup`; its results.json names the source."""

import csv
import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np


class PublishedEpoch(NamedTuple):
    """A logged epoch. Rates are shares, means over utterances; wer is None where the writeup computed it wrongly.

    seen: utterances trained on until its end, those of the stage before included
    """

    epoch: int
    seen: int
    dev_loss: float
    dev_wer: float | None
    dev_cer: float
    seconds: float


class PublishedRates(NamedTuple):
    """Means over utterances; wer is None where it is not stated."""

    cer: float
    wer: float | None


class PublishedRun(NamedTuple):
    """An experiment of the writeup, at full scale on LibriSpeech. batch: utterances; rates: by test part."""

    parameters: int
    batch: int
    steps: int
    epochs: list[PublishedEpoch]
    rates: dict[str, PublishedRates]

    @property
    def wall_seconds(self) -> float:
        """The time of all logged epochs, each with the scoring of dev."""
        return sum(epoch.seconds for epoch in self.epochs)


class PartSize(NamedTuple):
    """The size of a part of LibriSpeech."""

    utterances: int
    hours: float


@cache
def published_runs() -> dict[str, PublishedRun]:
    """Return the runs by experiment, in the order of training: a stage that continues another comes after it."""
    stored, logged = _results(), _curves()
    runs: dict[str, PublishedRun] = {}
    for name, facts in stored["experiments"].items():
        before = runs[facts["continues"]].epochs[-1].seen if facts["continues"] else 0
        an_epoch = stored["steps_per_epoch"] * facts["batch"]
        epochs = [
            PublishedEpoch(
                int(row["epoch"]),
                before + number * an_epoch,
                float(row["dev_loss"]),
                None if name in stored["wrong_wer"] else float(row["dev_wer"]),
                float(row["dev_cer"]),
                float(row["epoch_seconds"]),
            )
            for number, row in enumerate(logged[name], start=1)
        ]
        rates = {part: PublishedRates(**values) for part, values in stored["results"].get(name, {}).items()}
        steps = len(epochs) * stored["steps_per_epoch"]
        runs[name] = PublishedRun(facts["parameters"], facts["batch"], steps, epochs, rates)
    return runs


def learning_rate_curve(name: str, points: int) -> tuple[list[float], list[float]]:
    """Return shares of the training, from 0 to 1, and the learning rates that the experiment's schedule has there.

    source: torch's OneCycleLR with anneal_strategy="cos", and CyclicLR with mode="triangular2"
    """
    schedule = _results()["experiments"][name]["schedule"]
    steps = np.linspace(0, schedule["steps"] - 1, points).round()
    if schedule["kind"] == "one_cycle":
        peak = schedule["pct_start"] * schedule["steps"] - 1
        first = schedule["max_lr"] / schedule["div_factor"]
        last = first / schedule["final_div_factor"]
        done = np.where(steps <= peak, 1 - steps / peak, (steps - peak) / (schedule["steps"] - 1 - peak))
        low = np.where(steps <= peak, first, last)
        rates = low + (schedule["max_lr"] - low) * (1 + np.cos(np.pi * done)) / 2
    else:
        cycle, place = np.divmod(steps / schedule["step_size_up"], 2)
        height = (schedule["max_lr"] - schedule["base_lr"]) / 2**cycle
        rates = schedule["base_lr"] + height * (1 - np.abs(place - 1))
    return (steps / schedule["steps"]).tolist(), rates.tolist()


@cache
def librispeech() -> dict[str, PartSize]:
    """Return the sizes of LibriSpeech's parts."""
    return {part: PartSize(**size) for part, size in _results()["librispeech"].items()}


def published_device() -> str:
    """Return the device that the writeup trained on."""
    return _results()["device"]


@cache
def _results() -> dict:
    return json.loads(_text("results.json"))


def _curves() -> dict[str, list[dict[str, str]]]:
    runs: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(_text("curves.csv").splitlines()):
        runs.setdefault(row["run"], []).append(row)
    return runs


def _text(file: str) -> str:
    return files("asr.reporting").joinpath("writeup", file).read_text()
