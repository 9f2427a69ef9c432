"""The loop that trains the trials of a study, which other processes may share and which resumes after any stop."""

import math
import time

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from asr.searching.report import print_ended
from asr.searching.study import SILENT_HEARTBEATS, SURPLUS, by_place, count_states, make_sampler, place
from asr.searching.trial import BASELINE, Search, train_trial
from asr.tracking.run import Run


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
        """Train the trial at place `number` and return the value to minimise."""
        assert self.parent.run_id, "a run without a directory has an id from its start"
        return train_trial(trial, number, self.search, self.parent.run_id)

    def ended(self, trial: FrozenTrial, number: int) -> None:
        """Print and log a trial that this worker has trained to its end."""
        metric = self.settings.metric
        print_ended(self.study, number, metric)
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            self.parent.log_metrics({f"trials/{metric}": trial.value}, number)
