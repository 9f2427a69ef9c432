"""From a run's journal to MLflow, and how MLflow is found: the only module that imports it.

mlflow takes seconds to import, so it is imported when a run opens.
"""

import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from asr.errors import InputError, first_line
from asr.passwords import move_passwords
from asr.tracking.journal import Cursor, Journal, read
from asr.tracking.run import Run, flat_params

log = logging.getLogger(__name__)
DEFAULT_URI = "sqlite:///outputs/mlflow.db"
WAY_OUT = f"start the tracking server or use tracking.uri={DEFAULT_URI}"
DATABASE_FILE = "sqlite:///[^?#%:]+"
ITEMS_A_CALL = {"params": 100, "metrics": 1000, "tags": 100}  # MLflow's limits
EVENTS_A_CALL = 200  # of a kind that is sent together
JOURNAL_TAG = "asr.journal"  # of a run: its journal's id, by which it is found again
# Of HTTP: what the same request will get each time. Rights can be given and servers mended, so those can be waited for.
REFUSALS = (400, 405, 411, 413, 414, 415, 422)
ENVIRONMENT = {  # holds unless the user has set it
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else each migration is a line on the console
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a run reports to its tracking server and to nobody else
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # with mlflow's own 7, of 120 s each, a lost server costs minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class UnreachableError(InputError):
    """A tracking server does not answer, or is not well: later it may be."""


def open_run(
    directory: Path | Journal | None, uri: str, experiment: str, name: str, choices: Mapping[str, object],
    config: Mapping[str, Any], tags: Mapping[str, object] | None = None, *, run_id: str | None = None,
    system_metrics_seconds: float | None = 10.0, flush_seconds: float = 10.0, retry_seconds: float = 30.0,
) -> Run:  # fmt: skip
    """Starts a run or, where the directory or run_id has one of this uri, continues it.

    Everything that is logged goes into the directory's journal first. A server that does not answer is a warning:
    the journal is sent when it answers again, or by asr.sync.

    directory: or the journal that the caller has opened there; None for a run that is not to outlive an absent server:
               it needs MLflow at its start, and what MLflow has not got at its end is lost
    uri:       sqlite:///FILE, relative to the working directory, or what else MLflow takes (http://HOST:PORT)
    choices:   short columns such as model=ds2_4gru; config is nested and becomes columns such as model.gru_layers
    raises:    InputError if uri is malformed, a database cannot be used, experiment is deleted or run_id unknown, or
               another process has the directory; without a directory UnreachableError too
    """
    uri, trouble, stored = absolute(move_passwords(uri)), "", None
    with ExitStack() as resources:
        if isinstance(directory, Journal):
            journal = directory
        else:
            folder = directory or Path(resources.enter_context(TemporaryDirectory(prefix="asr-")))
            journal = resources.enter_context(closing(Journal(folder)))
        sender = Sender(journal, uri, experiment, run_id)
        try:
            stored = sender.connect()
        except UnreachableError as error:
            if directory is None:
                raise
            trouble = str(error)
            log.warning("%s. The run goes on and is sent when the server answers, or by asr.sync", trouble)
        run = Run(journal, sender.cursor, sender.send, kept=directory is not None, trouble=trouble,
                  flush_seconds=flush_seconds, retry_seconds=retry_seconds)  # fmt: skip
        resumed, known = journal.starts, journal.params
        if stored and not resumed:  # MLflow knows of an earlier start, which this journal does not
            resumed, known = int(stored.data.tags.get("resumed", 0)) + 1, set(stored.data.params)
        params = {key: value for key, value in flat_params(choices, config).items() if key not in known}
        run.start(uri, experiment, name, params, tags or {}, config, resumed)
        run.resources = resources.pop_all()
    try:
        if system_metrics_seconds:
            run.monitor = _system_metrics(run, journal, uri, system_metrics_seconds)
        if not trouble:
            run.wait_until_tried()
        if directory is None and run.run_id is None:
            raise UnreachableError(f"tracking.uri={first_line(uri)}: it makes no run; {WAY_OUT}")
    except BaseException:
        run.finish("FAILED")
        raise
    return run


class Sender:
    """Sends a journal to MLflow, in its order, to one run.

    Everything may be sent twice, so a kill between sending and saving the cursor is harmless: a run is found again by
    JOURNAL_TAG, SQL stores drop a metric of the same key, time, step and value, and all else replaces itself.
    """

    def __init__(self, journal: Journal, uri: str, experiment: str, run_id: str | None = None) -> None:
        self._journal, self._experiment = journal, experiment
        saved = Cursor.load(journal.directory)
        self.cursor = saved if saved and absolute(saved.uri) == uri else Cursor(uri, run_id)
        if self.cursor.sent > journal.path.stat().st_size:  # the journal was deleted
            self.cursor.sent = 0
        self._client: Any = None
        self._experiment_id: str | None = None
        self._warned: set[str] = set()

    def connect(self) -> Any:
        """The run that is continued, as MLflow has it; None if there is none so far. InputError as in `open_run`."""
        with _as_input_error(self.cursor.uri):
            if not self._client:
                self._client, self._experiment_id = _connect(self.cursor.uri, self._experiment, create=True)
            return self._stored_run() if self.cursor.run_id else None

    def send(self, stop: threading.Event | None = None) -> None:
        """Sends what is pending, until `stop` is set. InputError if that is not possible now."""
        with _as_input_error(self.cursor.uri):
            if not self._client:
                self.connect()
            self._journal.sync_to_disk()  # else MLflow could hold what a power cut takes from the journal
            events = read(self._journal.path, self.cursor.sent)
            for kind, group in groupby(events, key=lambda entry: entry.event["kind"]):
                while entries := list(islice(group, EVENTS_A_CALL if kind in ("metrics", "tag") else 1)):
                    self._send_events(kind, [entry.event for entry in entries])
                    if stop and stop.is_set():
                        return
                    self.cursor.sent = entries[-1].end
                    self.cursor.save(self._journal.directory)

    def _send_events(self, kind: str, events: Sequence[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, RunTag

        match kind:
            case "start":
                self._start(events[0])
            case "metrics":
                points = [(event, *point) for event in events for point in event["values"].items()]
                self._log(kind, [Metric(key, value, event["time"], event["step"]) for event, key, value in points])
            case "tag":
                latest = {event["key"]: event["value"] for event in events}
                self._log("tags", [RunTag(key, value) for key, value in latest.items()])
            case "file":
                self._log_file(self._journal.directory / events[0]["path"], events[0]["folder"])
            case "end":
                self._client.set_terminated(self.cursor.run_id, events[0]["status"], events[0]["time"])

    def _start(self, event: Mapping[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        if not self.cursor.run_id:
            runs = self._client.search_runs([self._experiment_id], f"tags.`{JOURNAL_TAG}` = '{event['id']}'")
            if not runs:
                mine = {JOURNAL_TAG: event["id"]}
                runs = [self._client.create_run(self._experiment_id, event["time"], mine, event["name"])]
            self.cursor.run_id = runs[0].info.run_id
        self._client.update_run(self.cursor.run_id, status="RUNNING")
        self._log("params", [Param(key, value) for key, value in event["params"].items()])
        self._log("tags", [RunTag(key, value) for key, value in event["tags"].items()])

    def _log(self, kind: str, items: Sequence[Any]) -> None:
        """Sends items of a kind; those that MLflow refuses are found by halving."""
        for first in range(0, len(items), ITEMS_A_CALL[kind]):
            batch = items[first : first + ITEMS_A_CALL[kind]]
            try:
                self._client.log_batch(self.cursor.run_id, **{kind: batch})
            except Exception as error:  # stores and servers raise what they like
                if not self._is_refusal(error):
                    raise
                if len(batch) == 1:
                    self._refuse(f"{kind[:-1]} {batch[0].key}", error)
                else:
                    self._log(kind, batch[: len(batch) // 2])
                    self._log(kind, batch[len(batch) // 2 :])

    def _log_file(self, path: Path, folder: str) -> None:
        try:
            self._client.log_artifact(self.cursor.run_id, str(path), folder or None)
        except Exception as error:  # as above
            if path.is_file() and not self._is_refusal(error):
                raise
            self._refuse(f"file {path}", error)

    def _is_refusal(self, error: Exception) -> bool:
        """Whether it is no use to send the same again; InputError if it is the whole run that takes nothing more."""
        refused = isinstance(error, PermissionError | ImportError) or _http_status(error) in REFUSALS
        if refused:
            self._stored_run()
        return refused

    def _refuse(self, what: str, error: Exception) -> None:
        self.cursor.refused += 1
        if what not in self._warned:
            self._warned.add(what)
            log.warning("MLflow refused %s for good: %s", what, first_line(error))

    def _stored_run(self) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            stored = self._client.get_run(self.cursor.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            stored = None
        if not stored or stored.info.lifecycle_stage == "deleted":
            raise InputError(
                f"tracking.uri={first_line(self.cursor.uri)}: run {self.cursor.run_id} was deleted there; restore it "
                f"or, to send everything again into a new run, delete {self._journal.directory}/mlflow.json"
            )
        return stored


def send_pending(journal: Journal) -> None:
    """Send what MLflow lacks of a run that has ended; if the server is away, warn and leave it to asr.sync."""
    sender = Sender(journal, journal.start["uri"], journal.start["experiment"])
    if sender.cursor.pending(journal.directory):
        try:
            require_database(sender.cursor.uri)
            sender.send()
        except InputError as error:
            log.warning("%s; send what MLflow lacks of this run later, by asr.sync", error)


def _system_metrics(run: Run, journal: Journal, uri: str, seconds: float) -> Any:
    """mlflow's monitor of CPU, memory, disk, network and GPU, started; it logs into the run's journal."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        def monitor(self) -> None:  # mlflow's own asks the server each time, and ends where that is away
            while True:
                for _ in range(self.samples_before_logging):
                    self.collect_metrics()
                    if self._shutdown_event.wait(self.sampling_interval):
                        return
                self.publish_metrics(self.aggregate_metrics())

        def publish_metrics(self, metrics: Mapping[str, float]) -> None:
            prefix = f"system/{self.node_id}/" if self.node_id else "system/"
            names = {prefix + key: value for key, value in metrics.items()}
            run.log_metrics(names, 1 + max((journal.last_steps.get(name, -1) for name in names), default=0))
            for source in self.monitors:
                source.clear_metrics()

    monitor = Monitor("", seconds, tracking_uri=uri)
    monitor.start()
    return monitor


def require_database(uri: str) -> None:
    """InputError if an address is that of a file which is not there: it was moved, or nothing was tracked yet."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise InputError(
            f"tracking.uri={uri}: there is no such database; give that of your runs, or train first: "
            "python -m asr.train sweep=writeup scale=mini data.root=outputs/corpora/synthetic"
        )


def find_experiment(uri: str, experiment: str) -> tuple[Any, str]:
    """A client to read with, and the experiment's id. Nothing is made.

    raises: InputError if uri is malformed, its database does not exist, nobody answers there or has such an experiment
    """
    require_database(uri)
    with _as_input_error(uri):
        client, experiment_id = _connect(uri, experiment, create=False)
        names = sorted(found.name for found in client.search_experiments()) if experiment_id is None else []
    if experiment_id is None:
        raise InputError(f"tracking.experiment={experiment}: {uri} has none of this name, but {', '.join(names)}")
    return client, experiment_id


def _connect(uri: str, experiment: str, create: bool) -> tuple[Any, str | None]:
    """A client and the experiment's id; one process at a time where the database is a file, as its migration races."""
    from filelock import FileLock
    from mlflow import MlflowClient

    if not uri:  # mlflow would take a default of its own
        raise ValueError("it is empty")
    if not uri.startswith("sqlite"):
        client = MlflowClient(uri)
        return client, _experiment_id(client, experiment, None, create)
    if not re.fullmatch(DATABASE_FILE, uri):
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
        if found and create and found.lifecycle_stage == "deleted":
            raise InputError(f"tracking.experiment={name} is deleted there; restore it or give another name")
        if found and create and artifacts:
            _refuse_moved(found, artifacts)
        if found or not create:
            return found.experiment_id if found else None
        return client.create_experiment(name, artifact_location=artifacts)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # on a server another process may be first
            raise
        return client.get_experiment_by_name(name).experiment_id


def _refuse_moved(experiment: Any, artifacts: str) -> None:
    """InputError if the experiment was made here (by `artifacts`, file:///DIRECTORY/mlartifacts) in another directory.

    MLflow stores absolute addresses: a database that was moved or copied would have its files written to the old place.
    """
    old, new = (Path(url2pathname(urlsplit(at).path)) for at in (experiment.artifact_location, artifacts))
    if experiment.artifact_location.startswith("file:") and old.name == new.name and old.resolve() != new.resolve():
        raise InputError(
            f"tracking.experiment={experiment.name}: MLflow would put its files into {old}, since the database was "
            f"moved or copied from there to {new.parent}; give a new tracking.experiment, or move it back"
        )


def absolute(uri: str) -> str:
    """The address that means the same in every working directory."""
    file = uri.removeprefix("sqlite:///")
    return f"sqlite:///{Path(file).absolute()}" if re.fullmatch(DATABASE_FILE, uri) else uri


@contextmanager
def _as_input_error(uri: str) -> Iterator[None]:
    for key, value in ENVIRONMENT.items():  # before mlflow is imported, which reads some of it then only
        os.environ.setdefault(key, value)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # else each retry is a line of its own
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

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
    """What an error is, or would be, as the answer of a server; 0 for what has nothing to do with one."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, HTTPError) and error.response is not None:  # from a store of artifacts
        return int(error.response.status_code)
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return 503 if isinstance(error, OSError) else 0
