"""Optuna studies: their storage, sampler and pruner, and what they were started with."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from asr.config.naming import NOT_COMPARED
from asr.errors import InputError, first_line, mask
from asr.settings import differences

RECORD, RUNS = (
    "record",
    "mlflow_runs",
)  # attributes of a study: what it was started with; its MLflow run by tracking.uri
SURPLUS = "surplus"  # of a trial: two processes began the last one at the same moment, and this one gave way
SILENT_HEARTBEATS = 3  # after so many a trial counts as dead
WAIT_FOR_RECORD_SECONDS = 60.0


def by_place(study: optuna.Study) -> dict[int, FrozenTrial]:
    """The trials of a study by their places 0, 1, 2, ..., each as it was last taken up.

    Optuna gives a trial that is taken up again a new number. Its place is that of its first number among all first
    numbers, so the places of a study that was stopped are those of one that was not.
    """
    latest: dict[int, FrozenTrial] = {}
    for trial in sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number):
        if SURPLUS not in trial.user_attrs:
            latest[_first_number(trial)] = trial
    return dict(enumerate(trial for _, trial in sorted(latest.items())))


def place(study: optuna.Study, number: int) -> int:
    """The place of the trial that has this number now, or had it before it was taken up again."""
    first = _first_number(study.get_trials(deepcopy=False)[number])
    return next(place for place, trial in by_place(study).items() if _first_number(trial) == first)


def _first_number(trial: FrozenTrial) -> int:
    return (RetryHeartbeatStaleTrialCallback.retry_history(trial) or [trial.number])[0]


class SeededByTrial(BaseSampler):
    """TPE whose random numbers come from (seed, place of the trial).

    So a study that is stopped and resumed draws what it would have drawn, and processes that share it draw apart.
    """

    def __init__(self, seed: int, random_trials: int) -> None:
        self.seed, self.random_trials = seed, random_trials
        self.tpe = TPESampler(seed=seed, n_startup_trials=random_trials)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        seed = int(np.random.SeedSequence([self.seed, place(study, trial.number)]).generate_state(1)[0])
        self.tpe = TPESampler(seed=seed, n_startup_trials=self.random_trials)
        self.tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.tpe.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.tpe.after_trial(study, trial, state, values)


def make_pruner(settings: DictConfig, epochs: int) -> BasePruner:
    """The pruner of study.pruner. Optuna's steps are our epochs, counted from 1."""
    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_epochs)
    if settings.pruner == "hyperband":
        return HyperbandPruner(min_resource=min(max(1, settings.warmup_epochs), epochs), max_resource=epochs)
    return NopPruner()


@contextmanager
def storage_errors(url: str, *others: type[BaseException]) -> Iterator[None]:
    """Makes what the storage raises a paragraph, and what `others` it may raise at its start."""
    expected: tuple[type[BaseException], ...] = (SQLAlchemyError, StorageInternalError, *others)
    try:
        yield
    except expected as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        raise InputError(
            f"study.storage={mask(url)}: {first_line(cause)}. It must be a database that can be reached and "
            "written: sqlite:///FILE on this machine, postgresql://USER@HOST/NAME for several (its driver comes with "
            "pip install -e .[postgres]). The same command goes on with a study that this has stopped"
        ) from error


def database_file(url: str) -> Path | None:
    """The file of sqlite:///FILE; None for another database.

    raises: InputError if the URL is malformed
    """
    with storage_errors(url):
        parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:" or Path(parsed.database).is_dir():
        raise InputError(f"study.storage={url}: a database in a file is sqlite:///FILE")
    return Path(parsed.database).absolute()


def open_storage(url: str, heartbeat_seconds: int, retry: RetryHeartbeatStaleTrialCallback) -> RDBStorage:
    """Connects, and makes the tables in an empty database; where several processes do so at once, one after the other.

    raises: InputError if the URL is malformed, its driver is missing or the database cannot be reached
    """
    file = database_file(url)
    engine: dict[str, Any] = {"connect_args": {"timeout": 60}} if file else {"pool_pre_ping": True}  # sqlite: a
    # writer waits so many seconds for the others; a server: a connection that was lost while a trial ran is renewed

    def connect() -> RDBStorage:
        return RDBStorage(
            f"sqlite:///{file}" if file else url,
            engine,
            heartbeat_interval=heartbeat_seconds,
            grace_period=SILENT_HEARTBEATS * heartbeat_seconds,
            heartbeat_stale_trial_callback=retry,
        )

    with storage_errors(url, ImportError, OSError, RuntimeError):  # no driver, no folder, another version's tables
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock", timeout=120):
                return connect()
        try:
            return connect()
        except (IntegrityError, ProgrammingError):  # another process was just making the tables
            time.sleep(2)
            return connect()


def find_study(storage: RDBStorage, name: str, sampler: BaseSampler, pruner: BasePruner) -> optuna.Study | None:
    """The study of this name, if there is one."""
    try:
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    except KeyError:
        return None


def create_or_wait(storage: RDBStorage, name: str, sampler: BaseSampler, pruner: BasePruner) -> optuna.Study:
    """Creates the study, or waits until the process that did so at the same moment has set its RECORD.

    A study that comes back without a RECORD is the caller's to begin: it is new, or its creator has died.
    """
    try:
        return optuna.create_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        deadline = time.monotonic() + WAIT_FOR_RECORD_SECONDS
        while RECORD not in study.user_attrs and time.monotonic() < deadline:
            time.sleep(0.5)
        return study


def abandon(storage: RDBStorage, study: optuna.Study) -> None:
    """Deletes a study that could not be begun: other calls would wait for its RECORD."""
    if RECORD not in study.user_attrs:
        optuna.delete_study(study_name=study.study_name, storage=storage)


def refuse_another(study: optuna.Study, record: Mapping[str, Any]) -> None:
    """InputError if the study was started with another space or config."""
    differing = differences(study.user_attrs.get(RECORD, record), record, ignore=NOT_COMPARED)
    if differing:
        raise InputError(
            f"study {study.study_name} was started with another search or config ({'; '.join(differing)}): its trials "
            "could not be compared with new ones. Only the same command goes on with it; another study.name starts "
            "another study"
        )


def quiet_optuna() -> None:
    """We print our own lines; what Optuna calls experimental is what its documentation recommends for our case."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
