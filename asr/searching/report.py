"""The results of a study: a line per trial, the best trials, trials.tsv, and Optuna's plots as PNGs and a page."""

import csv
import logging
import warnings
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import optuna.visualization.matplotlib as matplotlib_plots
from optuna import visualization as plotly_plots
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table
from rich.text import Text

from asr.console import console, print_table
from asr.errors import first_line
from asr.files import write_table
from asr.searching.space import show_setting
from asr.searching.study import by_place
from asr.searching.trial import BASELINE, EPOCHS, LAST_VALUE, REASON, RUN_ID, SECONDS

SHOWN = 10  # trials in the table of the best trials
PLOTS = ("optimization_history", "param_importances", "slice", "parallel_coordinate", "intermediate_values")


def state_name(trial: FrozenTrial) -> str:
    """Return complete, pruned, diverged, failed, running or waiting."""
    if trial.state == TrialState.PRUNED:
        return "diverged" if trial.user_attrs.get(REASON, "").startswith("diverged") else "pruned"
    return {TrialState.FAIL: "failed"}.get(trial.state, trial.state.name.lower())


def metric_of(trial: FrozenTrial) -> float | None:
    """Return the metric in the epoch of best.pt or, if the trial ended early, in its last epoch."""
    return trial.value if trial.state == TrialState.COMPLETE else trial.user_attrs.get(LAST_VALUE)


def show_value(value: float | None, metric: str) -> str:
    """Format a value of the metric; error rates are given in percent."""
    if value is None:
        return "-"
    return f"{value:.2%}" if metric.endswith(("cer", "wer")) else f"{value:.4g}"


def trial_line(number: int, trial: FrozenTrial, metric: str) -> str:
    """Return the line that says how a trial ended."""
    values = "  ".join(f"{key}={show_setting(value)}" for key, value in trial.params.items())
    reason = trial.user_attrs.get(REASON, "")
    state = reason if state_name(trial) in ("pruned", "diverged") else state_name(trial)
    seconds = trial.user_attrs.get(SECONDS, 0.0)
    return f"trial {number} ended: {values}  {metric} {show_value(metric_of(trial), metric)}  {seconds:.0f} s  {state}"


def trial_rows(study: optuna.Study, metric: str) -> list[dict[str, Any]]:
    """Return a row for each trial, in order; the metric of a trial that ended early is that of its last epoch."""
    trials = by_place(study)
    keys = sorted({key for trial in trials.values() for key in trial.params})
    return [
        {
            "trial": number,
            "state": state_name(trial),
            metric: metric_of(trial),
            **{key: trial.params.get(key) for key in keys},
            "epochs": trial.user_attrs.get(EPOCHS, 0),
            "seconds": round(trial.user_attrs.get(SECONDS, 0.0), 1),
            "baseline": BASELINE in trial.user_attrs,
            "reason": " ".join(trial.user_attrs.get(REASON, "").split()),
            "mlflow_run": trial.user_attrs.get(RUN_ID, ""),
        }
        for number, trial in trials.items()
    ]


def print_best(study: optuna.Study, metric: str) -> FrozenTrial | None:
    """Print a table of the best complete trials, and return the best or None if none is complete."""
    trials = by_place(study)
    complete = sorted(
        (trial.value, number) for number, trial in trials.items()
        if trial.state == TrialState.COMPLETE and trial.value is not None
    )  # fmt: skip
    keys = sorted({key for trial in trials.values() for key in trial.params})
    title = f"{study.study_name}: the best of {len(trials)} trials, {len(complete)} of them complete"
    table = Table(box=None, pad_edge=False)
    for column in ("trial", metric, *keys, "epochs", "seconds"):
        table.add_column(column, justify="right")
    for value, number in complete[:SHOWN]:
        trial = trials[number]
        table.add_row(
            str(number),
            Text(show_value(value, metric), "bold"),
            *(show_setting(trial.params.get(key)) for key in keys),
            str(trial.user_attrs.get(EPOCHS, "")),
            f"{trial.user_attrs.get(SECONDS, 0.0):.0f}",
        )
    print_table(title, table)
    if not complete:
        console.print("No trial was complete: see the reasons in trials.tsv, and narrow the space or prune less.")
        return None
    value, best = complete[0]
    for number, trial in trials.items():
        if BASELINE in trial.user_attrs and trial.state == TrialState.COMPLETE:
            own = f"Trial {number} is the config as it is: {metric} {show_value(trial.value, metric)}."
            better = f"Trial {best} has {show_value(value, metric)}" if best != number else "No trial was better"
            console.print(f"{own} {better}.", soft_wrap=True)
    return trials[best]


def is_current(study: optuna.Study, directory: Path) -> bool:
    """Return whether the report in the directory covers all trials of the study."""
    page, table = directory / "study.html", directory / "trials.tsv"
    if not (page.is_file() and table.is_file()):
        return False
    with open(table, newline="") as file:
        written = [row["state"] for row in csv.DictReader(file, delimiter="\t")]
    return written == [state_name(trial) for trial in by_place(study).values()]


def write_report(study: optuna.Study, directory: Path, metric: str) -> list[Path]:
    """Write trials.tsv, PLOT.png and study.html; print a line for each plot that cannot be drawn."""
    written = [write_table(trial_rows(study, metric), directory / "trials.tsv")]
    study = numbered_by_place(study)
    divisions: list[str] = []
    missing: dict[str, str] = {}
    for name in PLOTS:
        named = {} if name == "intermediate_values" else {"target_name": metric}
        try:
            require_complete_trials(study, name)
            written.append(write_plot(study, name, directory / f"{name}.png", named))
            figure = getattr(plotly_plots, f"plot_{name}")(study, **named)
            divisions.append(figure.to_html(full_html=False, include_plotlyjs=not divisions))
        except (ValueError, RuntimeError, ImportError) as error:
            missing[name] = first_line(error)
    for name, reason in missing.items():
        console.print(f"No plot of {name}: {reason}")
    page = directory / "study.html"
    title = escape(study.study_name)
    body = "\n".join(divisions) or "<p>No trial was complete.</p>"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>{title}</title><h1>{title}</h1>\n{body}\n")
    return [*written, page]


def numbered_by_place(study: optuna.Study) -> optuna.Study:
    """Return a copy for the plots, with trials numbered as in our tables and without those that have not ended."""
    trials = by_place(study)
    copy = optuna.create_study(study_name=study.study_name, direction=study.direction)
    for number in range(max(trials, default=-1) + 1):
        trial = trials.get(number)
        ended = trial is not None and trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        copy.add_trial(trial if ended else optuna.create_trial(state=TrialState.FAIL))  # type: ignore[arg-type]
    return copy


def require_complete_trials(study: optuna.Study, plot: str) -> None:
    """Raise a ValueError where Optuna would draw an empty plot: importances need two complete trials, others one."""
    complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    needed = 2 if plot == "param_importances" else 1
    if complete < needed:
        raise ValueError(f"it needs {needed} complete trials, there are {complete}")


def write_plot(study: optuna.Study, name: str, path: Path, named: dict[str, str]) -> Path:
    """Write a plot of Optuna's as a PNG, undoing its changes to pyplot's style and figures."""
    plt.switch_backend("Agg")
    logging.getLogger("matplotlib.category").setLevel(logging.WARNING)  # Optuna plots numeric choices as categories
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's, about the layouts that Optuna chose
        figure = np.ravel(getattr(matplotlib_plots, f"plot_{name}")(study, **named))[0].figure
        figure.savefig(path, dpi=100, bbox_inches="tight")
        plt.close(figure)
    return path
