"""Optuna studies: their storage, sampler and pruner, their trials by place, and the config that they started with."""

import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock
from omegaconf import DictConfig
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from asr.config.naming import NOT_COMPARED
from asr.errors import InputError, first_line, mask
from asr.settings import differences

# Attributes of a study: the config that it was started with, and its MLflow run by tracking.uri.
RECORD, RUNS = "record", "mlflow_runs"
# Attributes of a trial. SURPLUS: it gave way, as two processes started the last one at the same moment. LAST_VALUE:
# study.metric in the last epoch; the value that Optuna gives a pruned trial is study.pruned_by.
SECONDS, REASON, RUN_ID, BASELINE = "seconds", "reason", "mlflow_run", "baseline"
SURPLUS, LAST_VALUE = "surplus", "last_value"
SILENT_HEARTBEATS = 3  # a trial counts as dead after so many missing heartbeats
WAIT_FOR_RECORD_SECONDS = 60.0


def by_place(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the trials of a study by their places 0, 1, 2, ..., each in its latest attempt.

    Optuna gives a resumed trial a new number. The place of a trial is the rank of its first number among all first
    numbers, so a study has the same places whether it was interrupted or not.
    """
    latest: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if SURPLUS not in trial.user_attrs:
            latest[_first_number(trial)] = trial
    return dict(enumerate(trial for _, trial in sorted(latest.items())))


def place(study: optuna.Study, number: int) -> int:
    """Return the place of the trial that has this number in any of its attempts."""
    first = _first_number(study.get_trials(deepcopy=False)[number])
    return next(place for place, trial in by_place(study).items() if _first_number(trial) == first)


def _first_number(trial: FrozenTrial) -> int:
    return (RetryHeartbeatStaleTrialCallback.retry_history(trial) or [trial.number])[0]


def count_states(study: optuna.Study | None) -> Counter[str]:
    """Return how many trials are in each state: complete, pruned, running, ..."""
    return Counter(trial.state.name.lower() for trial in by_place(study).values()) if study else Counter()


def make_sampler(settings: DictConfig, number: int, fixed: Mapping[str, Any]) -> BaseSampler:
    """Return the sampler of the trial at this place: TPE with a generator seeded by (seed, place).

    A study that is stopped and resumed thus draws the same values, and processes that share it draw different ones.

    fixed: values that are not drawn
    """
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    return PartialFixedSampler(dict(fixed), TPESampler(seed=seed, n_startup_trials=settings.random_trials))


def make_pruner(settings: DictConfig, epochs: int) -> BasePruner:
    """Return the pruner that study.pruner names. Optuna's steps are epochs, counted from 1."""
    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_epochs)
    if settings.pruner == "hyperband":
        return HyperbandPruner(min_resource=min(max(1, settings.warmup_epochs), epochs), max_resource=epochs)
    return NopPruner()


@contextmanager
def storage_errors(url: str, *others: type[BaseException]) -> Iterator[None]:
    """Turn errors of the storage, and `others` that may occur while it is opened, into an InputError."""
    expected: tuple[type[BaseException], ...] = (SQLAlchemyError, StorageInternalError, *others)
    try:
        yield
    except expected as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        raise InputError(
            f"study.storage={mask(url)}: {first_line(cause)}. It must be a database that can be reached and "
            "written: sqlite:///FILE on this machine, postgresql://USER@HOST/NAME for several (pip install "
            "-e .[postgres] installs its driver). The same command resumes a study that this error has stopped"
        ) from error


def database_file(url: str) -> Path | None:
    """Return the file of sqlite:///FILE; None for another database.

    raises: InputError if the URL is malformed
    """
    with storage_errors(url):
        parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:" or Path(parsed.database).is_dir():
        raise InputError(f"study.storage={url}: an SQLite database must be a file: sqlite:///FILE")
    return Path(parsed.database).absolute()


def open_storage(settings: DictConfig) -> RDBStorage:
    """Connect to study.storage, and create its tables if it is empty; several processes may do so at once.

    raises: InputError if the URL is malformed, its driver is missing or the database cannot be reached
    """
    url, file = settings.storage, database_file(settings.storage)
    options: dict[str, Any] = {
        "url": f"sqlite:///{file}" if file else url,
        # SQLite: wait so many seconds for other writers. A server: renew connections that were lost during a trial.
        "engine_kwargs": {"connect_args": {"timeout": 60}} if file else {"pool_pre_ping": True},
        "heartbeat_interval": settings.heartbeat_seconds,
        "grace_period": SILENT_HEARTBEATS * settings.heartbeat_seconds,
        "heartbeat_stale_trial_callback": RetryHeartbeatStaleTrialCallback(max_retry=settings.retries),
    }
    with storage_errors(url, ImportError, OSError, RuntimeError):  # no driver, no folder, tables of another version
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=120) if file else nullcontext():
            try:
                return RDBStorage(**options)
            except (IntegrityError, ProgrammingError):  # another process is creating the tables of a server
                time.sleep(2)
                return RDBStorage(**options)


def find_study(storage: RDBStorage, name: str, pruner: BasePruner) -> optuna.Study | None:
    """Return the study of this name, or None if there is none."""
    try:
        return optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    except KeyError:
        return None


def create_or_wait(storage: RDBStorage, name: str, pruner: BasePruner) -> optuna.Study:
    """Create the study, or wait until the process that created it at the same moment has set its RECORD.

    A study that is returned without a RECORD must be started by the caller: it is new, or its creator has died.
    """
    try:
        return optuna.create_study(study_name=name, storage=storage, pruner=pruner)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
        deadline = time.monotonic() + WAIT_FOR_RECORD_SECONDS
        while RECORD not in study.user_attrs and time.monotonic() < deadline:
            time.sleep(0.5)
        return study


def validate_record(study: optuna.Study, record: Mapping[str, Any]) -> None:
    """Raise an InputError if the study was started with another space or config."""
    differing = differences(study.user_attrs.get(RECORD, record), record, ignore=NOT_COMPARED)
    if differing:
        raise InputError(
            f"study {study.study_name} was started with another search or config ({'; '.join(differing)}): its trials "
            "could not be compared with new ones. Only the same command resumes it; another study.name starts a new "
            "study"
        )


def quiet_optuna() -> None:
    """Silence Optuna's log, which ours replaces, and its warnings about the experimental features used here."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
