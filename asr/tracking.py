"""Runs with their parameters, metrics and files, in MLflow: the only module that imports it.

mlflow takes seconds to import, so it is imported when a run opens.
"""

import json
import logging
import math
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from asr.errors import InputError, first_line
from asr.provenance import code_version, package_versions
from asr.settings import flatten

log = logging.getLogger(__name__)
DEFAULT_URI = "sqlite:///outputs/mlflow.db"
PARAM_CHARACTERS, PARAMS_A_CALL, METRICS_A_CALL = 6000, 100, 1000  # MLflow's limits
AFTER_FAILURE_SECONDS = 60.0  # a server that is away must not slow down every step
ENVIRONMENT = {  # holds unless the user has set it
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else each migration is a line on the console
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a run reports to its tracking server and to nobody else
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # with mlflow's own 7, of 120 s each, a lost server costs minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class Run:
    """An open run; as a context manager it ends FINISHED, FAILED (exception) or KILLED (KeyboardInterrupt).

    What MLflow does not take from an open run is a warning: a server that goes away ends no training.
    """

    def __init__(self, client: Any, run_id: str, flush_seconds: float):
        self.run_id, self._client, self._flush_seconds = run_id, client, flush_seconds
        self._monitor: Any = None
        self._buffer: list[Any] = []
        self._next_flush = time.monotonic() + flush_seconds
        self._non_finite: set[str] = set()
        self._open = True

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Keeps the metrics; the first call after flush_seconds sends all that were kept.

        SQL stores turn inf into 1.8e308, so the first value of a metric that is not finite is a tag too.
        """
        from mlflow.entities import Metric

        for key, value in metrics.items():
            name, number = re.sub(r"[^/\w.\- ]", "_", key), float(value)
            self._buffer.append(Metric(name, number, int(time.time() * 1000), int(step)))
            if not math.isfinite(number) and name not in self._non_finite:
                self._non_finite.add(name)
                self.set_tag(f"first_non_finite.{name}", f"{number} at step {step}")
        if time.monotonic() >= self._next_flush:
            self.flush()

    def flush(self) -> None:
        """Sends the kept metrics. Those that MLflow does not take are kept; it drops what it gets a second time."""
        self._next_flush = time.monotonic() + self._flush_seconds
        while batch := self._buffer[:METRICS_A_CALL]:
            if not self._attempt(f"{len(batch)} metrics, which are kept", self._client.log_batch, batch):
                self._next_flush = time.monotonic() + AFTER_FAILURE_SECONDS
                return
            del self._buffer[: len(batch)]

    def set_tag(self, key: str, value: object) -> None:
        self._attempt(f"tag {key}", self._client.set_tag, key, str(value))

    def log_file(self, path: str | Path, folder: str = "") -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file to log; write it first")
        self._attempt(str(path), self._client.log_artifact, str(path), folder or None)

    def log_text(self, text: str, path: str) -> None:
        self._attempt(path, self._client.log_text, text, path)

    def log_table(self, rows: Sequence[Mapping[str, object]], path: str) -> None:
        """Rows of like keys as path.tsv, to read, and path.json, MLflow's table; give each table its own path."""
        columns = list(rows[0]) if rows else []
        lines = [columns, *([" ".join(str(row[column]).split()) for column in columns] for row in rows)]
        self.log_text("".join("\t".join(line) + "\n" for line in lines), f"{path}.tsv")
        table = {column: [row[column] for row in rows] for column in columns}
        self._attempt(f"{path}.json", self._client.log_table, table, f"{path}.json")

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        if self._open:
            self._open = False
            if self._monitor:
                self._monitor.finish()
            self.flush()
            if self._buffer:
                log.error("%d metrics of run %s never reached MLflow", len(self._buffer), self.run_id)
            self._attempt(f"the end of run {self.run_id}", self._client.set_terminated, status)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish("FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def _attempt(self, what: str, call: Callable[..., object], *arguments: object) -> bool:
        try:
            call(self.run_id, *arguments)
        except Exception as error:  # stores and servers raise what they like
            log.warning("MLflow did not take %s: %s", what, _first_line(error))
            return False
        return True


def open_run(
    uri: str, experiment: str, name: str, choices: Mapping[str, object], config: Mapping[str, Any],
    tags: Mapping[str, object] | None = None, run_id: str | None = None,
    system_metrics_seconds: float | None = 10.0, flush_seconds: float = 10.0,
) -> Run:  # fmt: skip
    """Starts a run or, with run_id, continues one; its config, packages and git diff become artifacts.

    uri:     sqlite:///FILE, relative to the working directory, or what else MLflow takes (http://HOST:PORT)
    choices: short columns such as model=ds2_4gru; config is nested and becomes columns such as model.gru_layers
    raises:  InputError if uri is malformed or nobody answers there, if experiment is deleted or run_id unknown
    """
    with _as_input_error(uri):
        client, experiment_id = _connect(uri, experiment, create=True)
        if run_id:
            client.update_run(run_id, status="RUNNING")
            stored = client.get_run(run_id)
        else:
            stored = client.create_run(experiment_id, run_name=name)
        run = Run(client, stored.info.run_id, flush_seconds)
        try:
            _log_start(client, stored, flat_params(choices, config), config, dict(tags or {}), resumed=bool(run_id))
            if system_metrics_seconds:
                from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor as Monitor

                run._monitor = Monitor(run.run_id, system_metrics_seconds, 1, bool(run_id), None, client.tracking_uri)
                run._monitor.start()
        except BaseException:
            run.finish("FAILED")
            raise
    return run


def find_experiment(uri: str, experiment: str) -> tuple[Any, str]:
    """A client to read with, and the experiment's id. Nothing is made.

    raises: InputError if uri is malformed, its database does not exist, nobody answers there or has such an experiment
    """
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.is_file():
        raise InputError(
            f"tracking.uri={uri}: there is no such database; give that of your runs, or train first: "
            "python -m asr.train sweep=writeup scale=mini data.root=outputs/corpora/synthetic"
        )
    with _as_input_error(uri):
        client, experiment_id = _connect(uri, experiment, create=False)
        names = sorted(found.name for found in client.search_experiments()) if experiment_id is None else []
    if experiment_id is None:
        raise InputError(f"tracking.experiment={experiment}: {uri} has none of this name, but {', '.join(names)}")
    return client, experiment_id


def _connect(uri: str, experiment: str, create: bool) -> tuple[Any, str | None]:
    """A client and the experiment's id; one process at a time where the database is a file, as its migration races."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # else each retry is a line of its own
    from filelock import FileLock
    from mlflow import MlflowClient

    if not uri:  # mlflow would take a default of its own
        raise ValueError("it is empty")
    if not uri.startswith("sqlite"):
        client = MlflowClient(uri)
        return client, _experiment_id(client, experiment, None, create)
    if not re.fullmatch("sqlite:///[^?#%:]+", uri):
        raise ValueError("a database in a file is sqlite:///FILE")
    database = Path(uri.removeprefix("sqlite:///")).absolute()
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock", timeout=120), closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA schema_version").close()  # mlflow tries ten times to open what is no database
        client = MlflowClient(f"sqlite:///{database}")
        return client, _experiment_id(client, experiment, (database.parent / "mlartifacts").as_uri(), create)


def _experiment_id(client: Any, name: str, artifacts: str | None, create: bool) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(name)
        if found or not create:
            return found.experiment_id if found else None
        return client.create_experiment(name, artifact_location=artifacts)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # on a server another process may be first
            raise
        return client.get_experiment_by_name(name).experiment_id


@contextmanager
def _as_input_error(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError, ValueError) as error:
        way_out = f"start the tracking server or use tracking.uri={DEFAULT_URI}"
        raise InputError(f"tracking.uri={_first_line(uri)}: {_first_line(error)}; {way_out}") from error


def _first_line(error: object) -> str:
    """Of the message, without the password of http://user:password@host."""
    return re.sub(r"//[^/\s]*@", "//***@", first_line(error))


def _log_start(client: Any, stored: Any, params: dict[str, str], config: object, tags: dict, resumed: bool) -> None:
    """Artifacts go to start/ or, when the run is continued, to resume_1/, resume_2/, ..."""
    from mlflow.entities import Param, RunTag

    run_id, known, code = stored.info.run_id, stored.data.params, code_version(Path(__file__).parent)
    folder, commit_tag = "start", "mlflow.source.git.commit"
    if resumed:  # MLflow keeps a parameter as it was first; the new config is an artifact
        tags["resumed"] = int(stored.data.tags.get("resumed", 0)) + 1
        folder, commit_tag = f"resume_{tags['resumed']}", f"resume_{tags['resumed']}.commit"
    tags |= {"mlflow.user": os.environ.get("USER", "unknown"), "mlflow.source.name": sys.argv[0]}
    tags |= {commit_tag: code.commit, f"{folder}.dirty": code.dirty}
    client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
    new = [Param(key, value) for key, value in params.items() if key not in known]
    for first in range(0, len(new), PARAMS_A_CALL):
        client.log_batch(run_id, params=new[first : first + PARAMS_A_CALL])
    packages = "".join(f"{name}=={version}\n" for name, version in package_versions().items())
    texts = {"packages.txt": packages, "config.json": json.dumps(config, indent=2, default=str)}
    for file, text in (texts | ({"git_diff.patch": code.diff} if code.diff else {})).items():
        client.log_text(run_id, text, f"{folder}/{file}")


def flat_params(choices: Mapping[str, object], config: Mapping[str, Any]) -> dict[str, str]:
    """{model: {gru_layers: 7}} as {"model.gru_layers": "7"}; a config key that a choice has taken is config.KEY."""
    leaves = {f"config.{key}" if key in choices else key: value for key, value in flatten(config).items()}
    cut = "... (all of it in config.json)"
    texts = {key: str(value) for key, value in (dict(choices) | leaves).items()}
    return {k: t if len(t) <= PARAM_CHARACTERS else t[: PARAM_CHARACTERS - len(cut)] + cut for k, t in texts.items()}
