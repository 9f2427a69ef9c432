"""The loop over the trials of a study that other processes may share, and that goes on after any stop.

A trial that was stopped is taken up again under a new number. Its place in the study is the number that it had first:
there lies its directory, and places are what study.trials counts.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from asr.searching.study import SILENT_HEARTBEATS

SURPLUS = "surplus"  # of a trial: two processes began the last one at the same moment, and this one gave way


def place(trial: FrozenTrial) -> int:
    """The number that the trial had when it was first begun."""
    return (RetryHeartbeatStaleTrialCallback.retry_history(trial) or [trial.number])[0]


def by_place(study: optuna.Study) -> dict[int, FrozenTrial]:
    """The trials of the study, each as it was last taken up."""
    trials = (t for t in study.get_trials(deepcopy=False) if SURPLUS not in t.user_attrs)
    return dict(sorted((place(trial), trial) for trial in sorted(trials, key=lambda t: t.number)))


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
            self.on_end(place(trial), trial)

    def _objective(self, trial: optuna.Trial) -> float:
        self.number = trial.number
        trials = by_place(self.study)
        mine = place(self.study.get_trials(deepcopy=False)[trial.number])
        if sum(other < mine for other in trials) >= self.total:
            trial.set_user_attr(SURPLUS, True)
            raise SurplusTrialError
        try:
            return self.train(trial, mine)
        except UpdateFinishedTrialError as error:
            self.taken_away = True
            raise TakenAwayError from error
