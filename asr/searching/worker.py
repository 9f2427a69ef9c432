"""The loop over the trials of a study that other processes may share, and that goes on after any stop."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from asr.searching.study import SILENT_HEARTBEATS, SURPLUS, by_place, place


def to_do(trials: Mapping[int, FrozenTrial], total: int) -> int:
    """How many trials are left to begin or to take up again; those that run elsewhere are not."""
    waiting = sum(trial.state == TrialState.WAITING for trial in trials.values())
    return max(0, total - len(trials)) + waiting


def count_states(trials: Mapping[int, FrozenTrial]) -> Counter[str]:
    """How many trials are complete, pruned, ..."""
    return Counter(trial.state.name.lower() for trial in trials.values())


class SurplusTrialError(Exception):
    """Another process began the study's last trial at the same moment."""


class TakenAwayError(Exception):
    """The trial was given to another process, as this one had not been heard of."""


class Worker:
    """Trains trials of a shared study, one after the other, until it has `total`.

    train:   trains a trial: (trial, its place) -> the value to minimise
    on_end:  is told of each trial that ended here
    """

    def __init__(
        self, study: optuna.Study, total: int, heartbeat_seconds: int, retry: RetryHeartbeatStaleTrialCallback,
        train: Callable[[optuna.Trial, int], float], on_end: Callable[[int, FrozenTrial], None],
    ) -> None:  # fmt: skip
        self.study, self.total, self.retry, self.train, self.on_end = study, total, retry, train, on_end
        # A trial of a process that has just died is silent for so long before it is taken up.
        self.patience_seconds = (SILENT_HEARTBEATS + 1) * heartbeat_seconds + 2
        self.number: int | None = None
        self.taken_away = False

    def run(self) -> list[int]:
        """Returns the places of trials that other processes still train, as their heartbeats say."""
        deadline = None
        while True:
            fail_stale_trials(self.study)
            trials = by_place(self.study)
            running = [number for number, trial in trials.items() if trial.state == TrialState.RUNNING]
            if to_do(trials, self.total):
                deadline = None
                self.one()
            elif not running:
                return []
            else:
                deadline = deadline or time.monotonic() + self.patience_seconds
                if time.monotonic() > deadline:
                    return running
                time.sleep(1)

    def one(self) -> None:
        """Begins a trial, or takes one up; whatever stops it but its own end puts it back into the queue."""
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
            self.on_end(place(self.study, trial.number), trial)

    def _objective(self, trial: optuna.Trial) -> float:
        self.number = trial.number
        mine = place(self.study, trial.number)
        if mine >= self.total:
            trial.set_user_attr(SURPLUS, True)
            raise SurplusTrialError
        try:
            return self.train(trial, mine)
        except UpdateFinishedTrialError as error:
            self.taken_away = True
            raise TakenAwayError from error
