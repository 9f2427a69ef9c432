"""Train the trials of a study, which other processes may share and which resumes after any stop.

A trial is a training without a test, whose dev scores are reported to the pruner after each epoch.
"""

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from omegaconf import DictConfig
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from asr.config.build import build_experiment
from asr.config.naming import Job, shell_command
from asr.console import console
from asr.errors import DivergedError
from asr.searching.report import print_ended
from asr.searching.space import Space, show_setting, train_overrides, trial_config, trial_settings
from asr.searching.study import (
    BASELINE,
    LAST_VALUE,
    REASON,
    RUN_ID,
    SECONDS,
    SILENT_HEARTBEATS,
    SURPLUS,
    by_place,
    count_states,
    make_sampler,
    place,
)
from asr.tracking.journal import Journal
from asr.tracking.run import Run
from asr.train import open_tracked, restore, train
from asr.training.monitor import TrainingMonitor
from asr.training.state import TrainState


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


class Worker:
    """Train trials of a shared study, one after the other, until it has study.trials of them.

    parent: the study's run in MLflow
    """

    def __init__(self, study: optuna.Study, search: Search, parent: Run) -> None:
        self.study, self.search, self.parent, self.settings = study, search, parent, search.config.study
        self.number: int | None = None  # Optuna's, of the trial that is training
        self.taken_away = False

    def run(self) -> list[int]:
        """Train until nothing is left; return the places of trials that other processes are still training."""
        # The trial of a process that has just died is resumed once its heartbeats have been missing for so long.
        patience_seconds, deadline = (SILENT_HEARTBEATS + 1) * self.settings.heartbeat_seconds + 2, None
        while True:
            fail_stale_trials(self.study)
            states = count_states(self.study)
            if states.total() < self.settings.trials or states["waiting"]:
                deadline = None
                self.run_one()
            elif not states["running"]:
                return []
            else:
                deadline = deadline or time.monotonic() + patience_seconds
                if time.monotonic() > deadline:
                    return [n for n, trial in by_place(self.study).items() if trial.state == TrialState.RUNNING]
                time.sleep(1)

    def run_one(self) -> None:
        """Start or resume one trial. If anything interrupts it, put it back into the queue."""
        self.number, self.taken_away = None, False
        try:
            self.study.optimize(self._objective, n_trials=1, gc_after_trial=True)
        except BaseException:
            if self.taken_away:
                return
            if self.number is not None and (trial := self.study.get_trials()[self.number]).state == TrialState.FAIL:
                RetryHeartbeatStaleTrialCallback(max_retry=self.settings.retries)(self.study, trial)
            raise
        assert self.number is not None
        trial = self.study.get_trials()[self.number]
        if SURPLUS not in trial.user_attrs:
            self.ended(trial, place(self.study, trial.number))

    def _objective(self, trial: optuna.Trial) -> float:
        self.number = trial.number
        number = place(self.study, trial.number)
        if number >= self.settings.trials:  # another process started the last trial at the same moment
            trial.set_user_attr(SURPLUS, True)
            return math.nan  # fails the trial
        baseline = self.search.baseline() if number == 0 else None
        if baseline:
            trial.set_user_attr(BASELINE, True)
        self.study.sampler = make_sampler(self.settings, number, baseline or {})
        try:
            return self.train(trial, number)
        except UpdateFinishedTrialError:  # another process has it, as this one was suspended and sent no heartbeats
            self.taken_away = True
            raise

    def train(self, trial: optuna.Trial, number: int) -> float:
        """Train with the values of the trial in a directory of its own, resuming there if it was started before.

        number:  the place of the trial in the study
        returns: study.metric in the epoch that best.pt was saved in
        raises:  TrialPruned if the pruner ends the trial or its loss is not finite; InputError for any other mistake
        """
        search, metric = self.search, self.settings.metric
        training = trial_config(search.config, search.space, search.space.suggest(trial))
        directory = Path(search.config.output_dir) / f"trial-{number:04}"
        training.output_dir = str(directory)
        job = search.training_job(training, directory.name)
        drawn = trial_settings(training, search.space)
        shown = "  ".join(f"{key}={show_setting(value)}" for key, value in drawn.items())
        baseline = " (the baseline)" if BASELINE in trial.user_attrs else ""
        console.print(f"trial {number}: {shown}{baseline}", soft_wrap=True)
        run = build_experiment(training)
        state = TrainState(run.recognizer.model, run.optimizer, run.scheduler)
        with ExitStack() as stack:
            journal = stack.enter_context(closing(Journal(directory)))
            restore(state, directory, run, job)
            tags = {"kind": "trial", "trial": number, "mlflow.parentRunId": self.parent.run_id}
            tracked = stack.enter_context(open_tracked(training, run, job, journal, **tags))
            monitor = TrialMonitor(run, state, directory, tracked)
            try:
                monitor.report_to(trial, self.settings, state)
                train(run, state, monitor)
                best = min(state.history, key=lambda record: record[f"dev_{training.monitor}"])
                tracked.log_metrics({"objective": best[metric]}, state.step)
                return float(best[metric])
            except (optuna.TrialPruned, DivergedError) as stop:
                diverged = isinstance(stop, DivergedError)  # pruned too in Optuna, whose sampler ignores failed trials
                how = "diverged" if diverged else "pruned"
                when = f"after epoch {state.epoch}" + (f": {stop}" if diverged else "")
                trial.set_user_attr(REASON, f"{how} {when}")
                tracked.set_tag(how, when)
                tracked.finish("FAILED" if diverged else "KILLED")
                raise optuna.TrialPruned from stop
            finally:
                trial.set_user_attr(RUN_ID, tracked.run_id)
                trial.set_user_attr(LAST_VALUE, state.history[-1][metric] if state.history else None)
                seconds = sum(record["train_wall_seconds"] + record["dev_wall_seconds"] for record in state.history)
                trial.set_user_attr(SECONDS, seconds)

    def ended(self, trial: FrozenTrial, number: int) -> None:
        """Print and log a trial that this worker has trained to its end."""
        metric = self.settings.metric
        print_ended(self.study, number, metric)
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            self.parent.log_metrics({f"trials/{metric}": trial.value}, number)


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
