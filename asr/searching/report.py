"""The results of a study: a line per trial, the best trials, trials.tsv, and Optuna's plots."""

import csv
import logging
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as visualization
from rich.table import Table

from asr.console import console, print_table
from asr.errors import first_line
from asr.files import write_table
from asr.searching.space import show_setting
from asr.searching.study import BASELINE, LAST_VALUE, REASON, RUN_ID, SECONDS, by_place

SHOWN = 10  # trials in the table of the best trials
PLOTS = ("optimization_history", "param_importances", "slice", "parallel_coordinate", "intermediate_values")


def state_name(trial: FrozenTrial) -> str:
    """Return complete, pruned, diverged, fail, running or waiting."""
    diverged = trial.state == TrialState.PRUNED and trial.user_attrs.get(REASON, "").startswith("diverged")
    return "diverged" if diverged else trial.state.name.lower()


def show_value(value: float | None, metric: str) -> str:
    """Format a value of the metric; error rates are given in percent."""
    if value is None:
        return "-"
    return f"{value:.2%}" if metric.endswith(("cer", "wer")) else f"{value:.4g}"


def trial_rows(study: optuna.Study, metric: str) -> list[dict[str, Any]]:
    """Return a row for each trial, in order; the metric of a trial that ended early is that of its last epoch."""
    trials = by_place(study)
    keys = sorted({key for trial in trials.values() for key in trial.params})
    return [
        {
            "trial": number,
            "state": state_name(trial),
            metric: trial.value if trial.state == TrialState.COMPLETE else trial.user_attrs.get(LAST_VALUE),
            **{key: trial.params.get(key) for key in keys},
            "epochs": len(trial.intermediate_values),
            "seconds": round(trial.user_attrs.get(SECONDS, 0.0), 1),
            "baseline": BASELINE in trial.user_attrs,
            "reason": " ".join(trial.user_attrs.get(REASON, "").split()),
            "mlflow_run": trial.user_attrs.get(RUN_ID, ""),
        }
        for number, trial in trials.items()
    ]


def print_ended(study: optuna.Study, number: int, metric: str) -> None:
    """Print the line that says how the trial at this place ended."""
    trial, row = by_place(study)[number], trial_rows(study, metric)[number]
    values = "  ".join(f"{key}={show_setting(value)}" for key, value in trial.params.items())
    ending = f"{metric} {show_value(row[metric], metric)}  {row['seconds']:.0f} s  {row['reason'] or row['state']}"
    console.print(f"trial {number} ended: {values}  {ending}", soft_wrap=True)


def print_best(study: optuna.Study, metric: str) -> FrozenTrial | None:
    """Print a table of the best complete trials, and return the best or None if none is complete."""
    trials = by_place(study)
    rows = [row for row in trial_rows(study, metric) if row["state"] == "complete"]
    rows.sort(key=lambda row: row[metric])
    if not rows:
        console.print("No trial was complete: see the reasons in trials.tsv, and narrow the space or prune less.")
        return None
    columns = [name for name in rows[0] if name not in ("state", "baseline", "reason", "mlflow_run")]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows[:SHOWN]:
        table.add_row(*(show_value(row[name], name) if name == metric else show_setting(row[name]) for name in columns))
    print_table(f"{study.study_name}: the best of {len(trials)} trials, {len(rows)} of them complete", table)
    best = rows[0]
    if own := next((row for row in rows if row["baseline"]), None):
        own_value, best_value = (show_value(row[metric], metric) for row in (own, best))
        better = "No trial was better" if own is best else f"Trial {best['trial']} has {best_value}"
        console.print(f"Trial {own['trial']} is the config as it is: {metric} {own_value}. {better}.", soft_wrap=True)
    return trials[best["trial"]]


def is_current(study: optuna.Study, directory: Path) -> bool:
    """Return whether the table in the directory covers all trials of the study."""
    if not (table := directory / "trials.tsv").is_file():
        return False
    with open(table, newline="") as file:
        written = [row["state"] for row in csv.DictReader(file, delimiter="\t")]
    return written == [state_name(trial) for trial in by_place(study).values()]


def write_report(study: optuna.Study, directory: Path, metric: str) -> list[Path]:
    """Write PLOT.png for each of PLOTS, then trials.tsv; print a line for each plot that cannot be drawn."""
    trials, written = by_place(study), []
    directory.mkdir(parents=True, exist_ok=True)
    numbered = optuna.create_study(study_name=study.study_name, direction=study.direction)
    numbered.add_trials(trials.values())  # their numbers are then those of the table
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials.values())
    for name in PLOTS:
        needed = 2 if name == "param_importances" else 1
        if complete < needed:  # Optuna would draw an empty plot
            console.print(f"No plot of {name}: it needs {needed} complete trials, there are {complete}")
            continue
        try:
            written.append(write_plot(numbered, name, directory / f"{name}.png", metric))
        except (ValueError, RuntimeError) as error:
            console.print(f"No plot of {name}: {first_line(error)}")
    return [*written, write_table(trial_rows(study, metric), directory / "trials.tsv")]


def write_plot(study: optuna.Study, name: str, path: Path, metric: str) -> Path:
    """Write a plot of Optuna's as a PNG, undoing its changes to pyplot's style and figures."""
    named = {} if name == "intermediate_values" else {"target_name": metric}
    plt.switch_backend("Agg")
    logging.getLogger("matplotlib.category").setLevel(logging.WARNING)  # Optuna plots numeric choices as categories
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's, about the layouts that Optuna chose
        figure = np.ravel(getattr(visualization, f"plot_{name}")(study, **named))[0].figure
        figure.savefig(path, dpi=100, bbox_inches="tight")
        plt.close(figure)
    return path
