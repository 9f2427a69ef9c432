"""Read what the writeup reached and what LibriSpeech holds from `writeup`; its results.json names the source."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.optim import SGD, lr_scheduler


@cache
def published() -> dict[str, Any]:
    """Return the content of results.json, with these of each experiment.

    steps:          how many its logged epochs have
    epochs:         a row for each logged epoch: dev_loss, dev_mean_wer and dev_mean_cer (means over utterances, named
                    as in our histories; the WER is nan where the writeup computed it wrongly), epoch_seconds, and seen,
                    the utterances trained on until its end, those of the stage before included
    learning_rates: share (of the training done) and learning_rate
    """
    folder = files("asr.reporting") / "writeup"
    content = json.loads((folder / "results.json").read_text())
    with (folder / "curves.csv").open() as file:
        logged = pd.read_csv(file).rename(columns={"dev_wer": "dev_mean_wer", "dev_cer": "dev_mean_cer"})
    experiments = content["experiments"]
    for name, run in experiments.items():  # a stage that continues another comes after it
        epochs = logged[logged.run == name].reset_index(drop=True)
        before = experiments[run["continues"]]["epochs"].seen.iloc[-1] if run["continues"] else 0
        epochs["seen"] = before + (epochs.index + 1) * content["steps_per_epoch"] * run["batch"]
        if run["wrong_wer"]:
            epochs["dev_mean_wer"] = np.nan
        run |= {
            "epochs": epochs,
            "steps": len(epochs) * content["steps_per_epoch"],
            "learning_rates": _learning_rates(**run.pop("learning_rates")),
        }
    return content


def _learning_rates(schedule: str, settings: dict[str, Any], steps: int) -> pd.DataFrame:
    """Return the learning rate of every tenth step, by torch's own scheduler, and the share of the steps before it."""
    optimizer = SGD([torch.zeros(1)], momentum=0.9)
    scheduler = getattr(lr_scheduler, schedule)(optimizer, **settings)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return pd.DataFrame({"share": np.arange(steps) / steps, "learning_rate": rates})[::10]
