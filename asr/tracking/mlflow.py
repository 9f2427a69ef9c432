"""Send a run's journal to MLflow and find experiments there: the only module that imports mlflow."""

import logging
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from requests import HTTPError
from sqlalchemy.exc import SQLAlchemyError

from asr.errors import InputError, first_line
from asr.tracking.journal import Cursor, Journal, UnreachableError, read

log = logging.getLogger(__name__)
logging.getLogger("urllib3").setLevel(logging.ERROR)  # else each retry is a line on the console
WAY_OUT = "start the tracking server or use tracking.uri=sqlite:///outputs/mlflow.db"
JOURNAL_TAG = "asr.journal"  # of a run: its journal's id, by which it is found again
ITEMS_A_CALL = {"params": 100, "metrics": 1000, "tags": 100}  # MLflow's limits
METRIC_EVENTS_A_CALL = 200
# HTTP statuses that the same request gets each time; not those of missing rights and broken servers, which may change.
REFUSALS = (400, 405, 411, 413, 414, 415, 422)


class Sender:
    """Sends a journal to one MLflow run, in the journal's order.

    Everything may be sent twice, so a kill between sending and saving the cursor is harmless: a run is found again by
    JOURNAL_TAG, SQL stores drop a metric of the same key, time, step and value, and all else replaces itself.
    """

    def __init__(self, journal: Journal, uri: str, experiment: str, run_id: str | None = None) -> None:
        self.journal, self.experiment = journal, experiment
        saved, uri = Cursor.load(journal.directory), absolute(uri)
        self.cursor = saved if saved and absolute(saved.uri) == uri else Cursor(uri, run_id)
        if self.cursor.sent > journal.path.stat().st_size:  # the journal was deleted
            self.cursor.sent = 0
        self._client: Any = None
        self._experiment_id: str | None = None
        self._reported: set[str] = set()

    def connect(self) -> Any:
        """Return the stored run that is continued, or None if there is none; InputError if the address is unusable."""
        with _as_input_error(self.cursor.uri):
            self._client, self._experiment_id = _connect(self.cursor.uri, self.experiment, create=True)
            return self._stored_run() if self.cursor.run_id else None

    def send(self, stop: threading.Event | None = None) -> None:
        """Send what is pending, or as much until `stop` is set; InputError if that is not possible now."""
        with _as_input_error(self.cursor.uri):
            if not self._client:
                self.connect()
            self.journal.sync_to_disk()  # else MLflow could hold what a power cut takes from the journal
            events = read(self.journal.path, self.cursor.sent)
            for kind, group in groupby(events, key=lambda entry: entry.event["kind"]):
                while entries := list(islice(group, METRIC_EVENTS_A_CALL if kind == "metrics" else 1)):
                    self._send_events(kind, [entry.event for entry in entries])
                    if stop and stop.is_set():
                        return
                    self.cursor.sent = entries[-1].end
                    self.cursor.save(self.journal.directory)

    def _send_events(self, kind: str, events: Sequence[dict[str, Any]]) -> None:
        event = events[0]
        match kind:
            case "start":
                self._start(event)
            case "metrics":
                points = [(each, *point) for each in events for point in each["values"].items()]
                self._log(kind, [Metric(key, value, each["time"], each["step"]) for each, key, value in points])
            case "tag":
                self._log("tags", [RunTag(event["key"], event["value"])])
            case "file":
                self._log_file(self.journal.directory / event["path"], event["folder"])
            case "end":
                self._client.set_terminated(self.cursor.run_id, event["status"], event["time"])

    def _start(self, event: Mapping[str, Any]) -> None:
        if not self.cursor.run_id:
            runs = self._client.search_runs([self._experiment_id], f"tags.`{JOURNAL_TAG}` = '{event['id']}'")
            if not runs:
                tags = {JOURNAL_TAG: event["id"]}
                runs = [self._client.create_run(self._experiment_id, event["time"], tags, event["name"])]
            self.cursor.run_id = runs[0].info.run_id
        self._client.update_run(self.cursor.run_id, status="RUNNING")
        self._log("params", [Param(key, value) for key, value in event["params"].items()])
        self._log("tags", [RunTag(key, value) for key, value in event["tags"].items()])

    def _log(self, kind: str, items: Sequence[Any]) -> None:
        """Send items of a kind. Halve those that are too many for a call or of which MLflow refuses some."""
        if len(items) <= ITEMS_A_CALL[kind]:
            try:
                return self._client.log_batch(self.cursor.run_id, **{kind: items})
            except Exception as error:  # stores and servers raise what they like
                if not self._is_refusal(error):
                    raise
                if len(items) == 1:
                    return self._refuse(f"{kind[:-1]} {items[0].key}", error)
        self._log(kind, items[: len(items) // 2])
        self._log(kind, items[len(items) // 2 :])

    def _log_file(self, path: Path, folder: str) -> None:
        try:
            self._client.log_artifact(self.cursor.run_id, str(path), folder or None)
        except Exception as error:  # as above
            if path.is_file() and not self._is_refusal(error):
                raise
            self._refuse(f"file {path}", error)

    def _is_refusal(self, error: Exception) -> bool:
        """Return whether MLflow will never take this item; InputError if it takes nothing more of the whole run."""
        refused = isinstance(error, PermissionError | ImportError) or _http_status(error) in REFUSALS
        if refused:
            self._stored_run()
        return refused

    def _refuse(self, what: str, error: Exception) -> None:
        self.cursor.refused += 1
        if what not in self._reported:
            self._reported.add(what)
            log.warning("MLflow refused %s for good: %s", what, first_line(error))

    def _stored_run(self) -> Any:
        try:
            stored = self._client.get_run(self.cursor.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            stored = None
        if not stored or stored.info.lifecycle_stage == "deleted":
            raise InputError(
                f"tracking.uri={first_line(self.cursor.uri)}: run {self.cursor.run_id} was deleted there; restore it "
                f"or, to send everything again into a new run, delete {self.journal.directory}/mlflow.json"
            )
        return stored


class SystemMetrics:
    """Measures CPU, memory, disk, network and GPU by mlflow's own monitors."""

    def __init__(self, uri: str) -> None:
        self._monitor = SystemMetricsMonitor("", tracking_uri=uri)

    def read(self) -> dict[str, float]:
        """Return the present values by name; MLflow shows those that begin with system/ on a page of their own."""
        self._monitor.collect_metrics()
        metrics = self._monitor.aggregate_metrics()
        for source in self._monitor.monitors:
            source.clear_metrics()
        return {f"system/{key}": value for key, value in metrics.items()}


def find_experiment(uri: str | None, experiment: str) -> tuple[MlflowClient, str]:
    """Return a client to read with and the experiment's id. Nothing is created.

    raises: InputError if uri is null or malformed, its database does not exist, nobody answers there or has such an
            experiment
    """
    if uri is None:
        raise InputError(f"tracking.uri=null: the runs of {experiment} are read from MLflow; give its address")
    require_database(uri)
    with _as_input_error(uri):
        client, experiment_id = _connect(uri, experiment, create=False)
        names = [] if experiment_id else sorted(found.name for found in client.search_experiments())
    if not experiment_id:
        raise InputError(f"tracking.experiment={experiment}: {uri} has none of this name, but {', '.join(names)}")
    return client, experiment_id


def require_database(uri: str) -> None:
    """InputError if an address is that of a file which is not there: it was moved, or nothing was tracked yet."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise InputError(
            f"tracking.uri={uri}: there is no such database; give that of your runs, or train first: "
            "python -m asr.train sweep=writeup scale=mini data.root=outputs/corpora/synthetic"
        )


def absolute(uri: str) -> str:
    """Return the address that means the same in every working directory."""
    database = _database(uri)
    return f"sqlite:///{database}" if database else uri


def _database(uri: str) -> Path | None:
    found = re.fullmatch("sqlite:///([^?#%:]+)", uri)
    return Path(found[1]).absolute() if found else None


def _connect(uri: str, experiment: str, create: bool) -> tuple[MlflowClient, str | None]:
    """Return a client and the experiment's id. One process at a time where the database is a file: migrations race."""
    if not uri:  # mlflow would take a default of its own
        raise ValueError("it is empty")
    if not uri.startswith("sqlite"):
        client = MlflowClient(uri)
        return client, _experiment_id(client, experiment, None, create)
    if not (database := _database(uri)):
        raise ValueError("a database in a file is sqlite:///FILE")
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock", timeout=120), closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA schema_version").close()  # mlflow tries ten times to open what is no database
        client = MlflowClient(f"sqlite:///{database}")
        return client, _experiment_id(client, experiment, database.parent / "mlartifacts", create)


def _experiment_id(client: MlflowClient, name: str, artifacts: Path | None, create: bool) -> str | None:
    """Return the id of an experiment, created if wanted; None if there is none. artifacts: where a database puts files.

    raises: InputError if it is to be written to but deleted, or its files would go to where the database was before:
            MLflow stores absolute addresses
    """
    found = client.get_experiment_by_name(name)
    if found and create:
        if found.lifecycle_stage == "deleted":
            raise InputError(f"tracking.experiment={name} is deleted there; restore it or give another name")
        old = Path(url2pathname(urlsplit(found.artifact_location).path))
        is_file = found.artifact_location.startswith("file:")
        if artifacts and is_file and old.name == artifacts.name and old.resolve() != artifacts.resolve():
            raise InputError(
                f"tracking.experiment={name}: MLflow would put its files into {old}, since the database was moved or "
                f"copied from there to {artifacts.parent}; give a new tracking.experiment, or move it back"
            )
    if found or not create:
        return found.experiment_id if found else None
    try:
        return client.create_experiment(name, artifact_location=artifacts.as_uri() if artifacts else None)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # on a server another process may be first
            raise
        return _experiment_id(client, name, artifacts, create)


@contextmanager
def _as_input_error(uri: str) -> Iterator[None]:
    """Turn what mlflow and its stores raise into an InputError, or UnreachableError if it may pass."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError, ValueError) as error:
        status, malformed = _http_status(error), isinstance(error.__cause__ or error.__context__, ValueError)
        if uri.startswith("http") and (status >= 500 or status == 429) and not malformed:
            reason: BaseException = error
            while inner := reason.__cause__ or reason.__context__:  # what the operating system said, if anything
                reason = inner
            raise UnreachableError(
                f"tracking.uri={first_line(uri)} does not answer ({first_line(reason)}); {WAY_OUT}"
            ) from error
        raise InputError(f"tracking.uri={first_line(uri)}: {first_line(error)}; {WAY_OUT}") from error


def _http_status(error: Exception) -> int:
    """Return the status of a server's answer that an error is, or would be; 0 if it has nothing to do with one."""
    if isinstance(error, HTTPError) and error.response is not None:  # from a store of artifacts
        return int(error.response.status_code)
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return 503 if isinstance(error, OSError) else 0
