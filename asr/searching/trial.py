"""One trial of a study: a training without a test, whose dev scores are reported to the pruner after each epoch."""

import math
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from omegaconf import DictConfig

from asr.config.build import build_experiment
from asr.config.naming import Job, shell_command
from asr.console import console
from asr.errors import DivergedError
from asr.searching.space import Space, show_setting, train_overrides, trial_config, trial_settings
from asr.tracking.journal import Journal
from asr.train import open_tracked, restore, train
from asr.training.monitor import TrainingMonitor
from asr.training.state import TrainState

# Attributes of a trial in Optuna's storage. LAST_VALUE is study.metric in the last epoch; the value that Optuna gives
# a pruned trial is study.pruned_by.
SECONDS, REASON, RUN_ID, BASELINE = "seconds", "reason", "mlflow_run", "baseline"
LAST_VALUE = "last_value"


class Search(NamedTuple):
    """A search: its composed config, the job that runs it, and its space."""

    config: DictConfig
    job: Job
    space: Space

    def baseline(self) -> dict[str, Any] | None:
        """Return the values of the baseline trial; None without study.baseline or if one is outside the space."""
        return self.space.baseline(self.config) if self.config.study.baseline else None

    def training_job(self, training: DictConfig, name: str = "") -> Job:
        """Return the job of asr.train that a trial's config is of."""
        overrides = train_overrides(self.job.overrides, trial_settings(training, self.space))
        command = shell_command("asr.train", overrides)
        return Job(f"{self.job.name}/{name}", self.job.choices, overrides, command)


def train_trial(trial: optuna.Trial, number: int, search: Search, parent: str) -> float:
    """Train with the values of the trial in a directory of its own, resuming there if it was started before.

    number:  the place of the trial in the study
    parent:  the id of the study's MLflow run
    returns: study.metric in the epoch that best.pt was saved in
    raises:  TrialPruned if the pruner ends the trial or its loss is not finite; InputError for any other mistake
    """
    config, metric = search.config, search.config.study.metric
    training = trial_config(config, search.space, search.space.suggest(trial))
    directory = Path(config.output_dir) / f"trial-{number:04}"
    training.output_dir = str(directory)
    job = search.training_job(training, directory.name)
    settings = trial_settings(training, search.space).items()
    shown = "  ".join(f"{key}={show_setting(value)}" for key, value in settings)
    console.print(f"trial {number}: {shown}{' (the baseline)' if BASELINE in trial.user_attrs else ''}", soft_wrap=True)

    run = build_experiment(training)
    state = TrainState(run.recognizer.model, run.optimizer, run.scheduler)
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(directory)))
        restore(state, directory, run, job)
        tags = {"kind": "trial", "trial": number, "mlflow.parentRunId": parent}
        tracked = stack.enter_context(open_tracked(training, run, job, journal, **tags))
        monitor = TrialMonitor(run, state, directory, tracked)
        try:
            monitor.report_to(trial, config.study, state)
            train(run, state, monitor)
            best = min(state.history, key=lambda record: record[f"dev_{training.monitor}"])
            tracked.log_metrics({"objective": best[metric]}, state.step)
            return float(best[metric])
        except (optuna.TrialPruned, DivergedError) as stop:  # pruned in Optuna, as its sampler ignores failed trials
            diverged = isinstance(stop, DivergedError)
            how = "diverged" if diverged else "pruned"
            when = f"after epoch {state.epoch}" + (f": {stop}" if diverged else "")
            trial.set_user_attr(REASON, f"{how} {when}")
            tracked.set_tag(how, when)
            tracked.finish("FAILED" if diverged else "KILLED")
            raise optuna.TrialPruned from stop
        finally:
            trial.set_user_attr(RUN_ID, tracked.run_id)
            trial.set_user_attr(LAST_VALUE, state.history[-1][metric] if state.history else None)
            trial.set_user_attr(SECONDS, sum(r["train_wall_seconds"] + r["dev_wall_seconds"] for r in state.history))


class TrialMonitor(TrainingMonitor):
    """Report every finished epoch to Optuna too, and stop if it prunes the trial."""

    def report_to(self, trial: optuna.Trial, study: DictConfig, state: TrainState) -> None:
        """Set the trial to report to, whose pruner compares study.pruned_by; report the epochs before a resume."""
        self.trial, self.key, self.metric = trial, study.pruned_by, study.metric
        for record in state.history:
            self._report(record)

    def epoch(self, state: TrainState) -> None:
        """Record, save and report a finished epoch.

        raises: TrialPruned if the pruner ends the trial; DivergedError if a score is not finite
        """
        super().epoch(state)
        self._report(state.history[-1])

    def _report(self, record: Mapping[str, Any]) -> None:
        """Report an epoch; raise if a score is not finite or the pruner ends a trial, unless it is the baseline."""
        self.trial.report(record[self.key], record["epoch"])
        for key in (self.key, self.metric, f"dev_{self.config['monitor']}"):
            if not math.isfinite(record[key]):
                raise DivergedError(f"{key} is {record[key]}")
        prunable = record["epoch"] < self.run.epochs and BASELINE not in self.trial.user_attrs
        if prunable and self.trial.should_prune():
            raise optuna.TrialPruned
