"""One trial of a study: a training without a test, whose dev scores are reported to the pruner after each epoch."""

import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from omegaconf import DictConfig

from asr.config.build import build_experiment
from asr.config.naming import Job
from asr.console import console
from asr.errors import DivergedError
from asr.searching.space import Space, show_setting, train_overrides, trial_settings, with_settings
from asr.tracking.journal import Journal
from asr.tracking.run import Run
from asr.train import open_tracked, restore, train
from asr.training.monitor import EXAMPLES, TrainingMonitor
from asr.training.state import EpochRecord, TrainState

METRICS = tuple(field.name for field in fields(EpochRecord) if field.name not in ("epoch", "step", EXAMPLES))
# Attributes of a trial in Optuna's storage.
EPOCHS, SECONDS, REASON, RUN_ID, BASELINE = "epochs", "seconds", "reason", "mlflow_run", "baseline"
LAST_VALUE = (
    "last_value"  # study.metric in the last epoch; the value that Optuna gives a pruned trial is study.pruned_by
)


class Search(NamedTuple):
    """A search: its composed config, the job that runs it, and its space."""

    config: DictConfig
    job: Job
    space: Space


def train_command(job: Job, settings: Mapping[str, Any]) -> str:
    """Return the command that runs the same training, with its test."""
    return shlex.join(["python", "-m", "asr.train", *train_overrides(job.overrides, settings)])


def train_trial(trial: optuna.Trial, number: int, search: Search, parent: str) -> float:
    """Train with the values of the trial in a directory of its own, resuming there if it was started before.

    number:  the place of the trial in the study
    parent:  the id of the study's MLflow run
    returns: study.metric in the epoch that best.pt was saved in
    raises:  TrialPruned if the pruner ends the trial or its loss is not finite; InputError for any other mistake
    """
    config, job, space = search
    settings = trial_settings(config, space, {p.key: p.suggest(trial) for p in space.parameters})
    training = with_settings(config, settings)
    directory = Path(config.output_dir) / f"trial-{number:04}"
    training.output_dir = str(directory)
    overrides = train_overrides(job.overrides, settings)
    job = Job(f"{job.name}/{directory.name}", job.choices, overrides, train_command(job, settings))
    shown = "  ".join(f"{key}={show_setting(value)}" for key, value in settings.items())
    console.print(f"trial {number}: {shown}{' (the baseline)' if BASELINE in trial.user_attrs else ''}", soft_wrap=True)

    run = build_experiment(training)
    state = TrainState(run.recognizer.model, run.optimizer, run.scheduler)
    tags = {"kind": "trial", "trial": number, "mlflow.parentRunId": parent}
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(directory)))
        restore(state, directory, run, job)
        tracked = stack.enter_context(open_tracked(training, run, job, journal, **tags))
        trial.set_user_attr(RUN_ID, tracked.run_id)
        monitor = TrialMonitor(run, state, directory, tracked)
        monitor.report_to(trial, config.study)
        try:
            monitor.report_earlier_epochs(state)
            train(run, state, monitor)
            value = objective(state.history, config.study.metric, training.monitor)
            tracked.log_metrics({"objective": value}, state.step)
            return value
        except (optuna.TrialPruned, DivergedError) as stop:
            end_early(trial, state, tracked, stop)
            raise optuna.TrialPruned from stop
        finally:
            trial.set_user_attr(RUN_ID, tracked.run_id)  # again, as MLflow may not have answered at the start
            trial.set_user_attr(EPOCHS, state.epoch)
            trial.set_user_attr(LAST_VALUE, state.history[-1][config.study.metric] if state.history else None)
            trial.set_user_attr(SECONDS, sum(r["train_wall_seconds"] + r["dev_wall_seconds"] for r in state.history))


def end_early(trial: optuna.Trial, state: TrainState, tracked: Run, stop: Exception) -> None:
    """Mark a trial that the pruner ended (KILLED in MLflow) or that diverged (FAILED).

    In Optuna both are pruned, as its sampler ignores failed trials.
    """
    if isinstance(stop, DivergedError):
        trial.set_user_attr(REASON, f"diverged after epoch {state.epoch}: {stop}")
        tracked.set_tag("diverged", f"after epoch {state.epoch}: {stop}")
        tracked.finish("FAILED")
    else:
        trial.set_user_attr(REASON, f"pruned after epoch {state.epoch}")
        tracked.set_tag("pruned", f"epoch {state.epoch}")
        tracked.finish("KILLED")


def objective(history: Sequence[Mapping[str, Any]], metric: str, monitor: str) -> float:
    """Return the metric in the first epoch with the lowest monitored dev score, in which best.pt was saved."""
    return float(min(history, key=lambda record: record[f"dev_{monitor}"])[metric])


class TrialMonitor(TrainingMonitor):
    """Report every finished epoch to Optuna too, and stop if it prunes the trial."""

    def report_to(self, trial: optuna.Trial, study: DictConfig) -> None:
        """Set the trial to report to; the pruner compares study.pruned_by."""
        self.trial, self.key = trial, study.pruned_by
        self.finite = (study.pruned_by, study.metric, f"dev_{self.config['monitor']}")

    def report_earlier_epochs(self, state: TrainState) -> None:
        """Report the epochs before a resume; the pruner may not have judged the last of them yet."""
        for record in state.history:
            self.trial.report(record[self.key], record["epoch"])
        if state.history:
            self._judge(state.history[-1])

    def epoch(self, state: TrainState) -> None:
        """Record, save and report a finished epoch.

        raises: TrialPruned if the pruner ends the trial; DivergedError if a score is not finite
        """
        super().epoch(state)
        record = state.history[-1]
        self.trial.report(record[self.key], record["epoch"])
        self._judge(record)

    def _judge(self, record: Mapping[str, Any]) -> None:
        """Raise if a score is not finite or the pruner ends the trial; never prune the last epoch or the baseline."""
        for key in self.finite:
            if not math.isfinite(record[key]):
                raise DivergedError(f"{key} is {record[key]}")
        prunable = record["epoch"] < self.run.epochs and BASELINE not in self.trial.user_attrs
        if prunable and self.trial.should_prune():
            raise optuna.TrialPruned
