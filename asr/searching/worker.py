"""The loop that trains the trials of a study, which other processes may share and which resumes after any stop."""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping

import optuna
from omegaconf import DictConfig
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from asr.searching.study import SILENT_HEARTBEATS, SURPLUS, by_place, place


def count_remaining(trials: Mapping[int, FrozenTrial], total: int) -> int:
    """Return how many trials are left to start or resume, without those that are running."""
    waiting = sum(trial.state == TrialState.WAITING for trial in trials.values())
    return max(0, total - len(trials)) + waiting


def count_states(trials: Mapping[int, FrozenTrial]) -> Counter[str]:
    """Return how many trials are in each state: complete, pruned, ..."""
    return Counter(trial.state.name.lower() for trial in trials.values())


class SurplusTrialError(Exception):
    """Raised if another process started the last trial of the study at the same moment."""


class TakenAwayError(Exception):
    """Raised if the trial was given to another process because this one sent no heartbeats."""


class Worker(ABC):
    """Train trials of a shared study, one after the other, until it has settings.trials of them.

    settings: the config's `study`, of which trials, heartbeat_seconds and retries are read
    """

    def __init__(self, study: optuna.Study, settings: DictConfig) -> None:
        self.study, self.total = study, settings.trials
        self.retry = RetryHeartbeatStaleTrialCallback(max_retry=settings.retries)
        # The trial of a process that has just died is resumed once its heartbeats have been missing for so long.
        self.patience_seconds = (SILENT_HEARTBEATS + 1) * settings.heartbeat_seconds + 2
        self.number: int | None = None
        self.taken_away = False

    @abstractmethod
    def train(self, trial: optuna.Trial, number: int) -> float:
        """Train the trial at place `number` and return the value to minimise."""

    @abstractmethod
    def ended(self, trial: FrozenTrial, number: int) -> None:
        """Report a trial that this worker has trained to its end."""

    def run(self) -> list[int]:
        """Train until nothing is left; return the places of trials that other processes are still training."""
        deadline = None
        while True:
            fail_stale_trials(self.study)
            trials = by_place(self.study)
            running = [number for number, trial in trials.items() if trial.state == TrialState.RUNNING]
            if count_remaining(trials, self.total):
                deadline = None
                self.run_one()
            elif not running:
                return []
            else:
                deadline = deadline or time.monotonic() + self.patience_seconds
                if time.monotonic() > deadline:
                    return running
                time.sleep(1)

    def run_one(self) -> None:
        """Start or resume one trial. If anything interrupts it, put it back into the queue."""
        self.number, self.taken_away = None, False
        try:
            self.study.optimize(self._objective, n_trials=1, catch=(SurplusTrialError,), gc_after_trial=True)
        except BaseException:
            if self.taken_away:
                return
            if self.number is not None:
                trial = self.study.get_trials()[self.number]
                if trial.state == TrialState.FAIL:
                    self.retry(self.study, trial)
            raise
        assert self.number is not None
        trial = self.study.get_trials()[self.number]
        if SURPLUS not in trial.user_attrs:
            self.ended(trial, place(self.study, trial.number))

    def _objective(self, trial: optuna.Trial) -> float:
        self.number = trial.number
        number = place(self.study, trial.number)
        if number >= self.total:
            trial.set_user_attr(SURPLUS, True)
            raise SurplusTrialError
        try:
            return self.train(trial, number)
        except UpdateFinishedTrialError as error:
            self.taken_away = True
            raise TakenAwayError from error
