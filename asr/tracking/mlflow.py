"""Send a run's journal to MLflow and find experiments there: the only module that imports mlflow."""

import json
import logging
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from requests import HTTPError
from sqlalchemy.exc import SQLAlchemyError

from asr.errors import InputError, first_line
from asr.tracking.journal import Journal

log = logging.getLogger(__name__)
logging.getLogger("urllib3").setLevel(logging.ERROR)  # else each retry is a line on the console
JOURNAL_TAG = "asr.journal"  # of a run: the id of its first start, by which it is found again
MODEL_FILE = "checkpoints/best.pt"  # among the files of a run: the weights of its model
ITEMS_A_CALL = {"params": 100, "metrics": 1000, "tags": 100}  # MLflow's limits
METRIC_EVENTS_A_CALL = 200
# HTTP statuses that the same request gets each time; not those of missing rights and broken servers, which may change.
REFUSALS = (400, 405, 411, 413, 414, 415, 422)


class UnreachableError(InputError):
    """A tracking server does not answer, or reports that it is not well; later it may be."""


class Sender:
    """Send a journal to one MLflow run, in the journal's order.

    Everything may be sent twice, so a kill at any moment is harmless: a run is found again by JOURNAL_TAG, SQL stores
    drop a metric of the same key, time, step and value, and a dataset of the same name and digest, a run has one model,
    and all else replaces itself.

    run_id: of a run at the address that the journal joins; None for one of its own
    """

    def __init__(self, journal: Journal, uri: str, experiment: str, run_id: str | None = None) -> None:
        database = _database(uri)
        self.uri = f"sqlite:///{database}" if database else uri  # means the same in every working directory
        self.journal, self.experiment = journal, experiment
        self.run_id: str | None = journal.sent[self.uri][0] if self.uri in journal.sent else run_id
        self._client: Any = None

    def connect(self) -> None:
        """Connect to the address; InputError if it is unusable, or the run that is continued was deleted there."""
        if self.uri == self.journal.start.get("uri"):  # else a database that was moved would be made anew
            require_database(self.uri)
        with _as_input_error(self.uri):
            client = connect(self.uri)
            self._experiment_id = _experiment_to_write(client, self.experiment, self.uri)
            self._client = client
            if self.run_id:
                self._require_run()
        if self.run_id and self.uri not in self.journal.sent:
            self.journal.append("sent", uri=self.uri, run_id=self.run_id, end=0)

    def count_pending(self) -> int:
        """Return how many events of the journal MLflow lacks."""
        return sum(1 for _ in self.journal.pending(self.uri))

    def send(self) -> None:
        """Send what is pending; InputError if that is not possible now."""
        if not self._client and any(self.journal.pending(self.uri)):
            self.connect()
        with _as_input_error(self.uri):
            for kind, group in groupby(self.journal.pending(self.uri), key=lambda entry: entry.event["kind"]):
                while entries := list(islice(group, METRIC_EVENTS_A_CALL if kind == "metrics" else 1)):
                    self._send_events(kind, [entry.event for entry in entries])
                    self.journal.append("sent", uri=self.uri, run_id=self.run_id, end=entries[-1].end)

    def _send_events(self, kind: str, events: Sequence[dict[str, Any]]) -> None:
        """Send events of a kind; warn of one that MLflow will never take, so that it does not hold up the rest."""
        event = events[0]
        try:
            match kind:
                case "start":
                    self._start(event)
                case "metrics":
                    points = [(each, *point) for each in events for point in each["values"].items()]
                    self._log(metrics=[Metric(key, value, each["time"], each["step"]) for each, key, value in points])
                case "tag":
                    self._log(tags=[RunTag(event["key"], event["value"])])
                case "file":
                    path = self.journal.directory / event["path"]
                    self._client.log_artifact(self.run_id, str(path), event["folder"] or None)
                case "dataset":
                    source, profile = json.dumps({"uri": event["root"]}), json.dumps(event["profile"])
                    dataset = Dataset(event["name"], event["digest"], "local", source, profile=profile)
                    role = InputTag(MLFLOW_DATASET_CONTEXT, event["role"])
                    self._client.log_inputs(self.run_id, [DatasetInput(dataset, [role])])
                case "model":
                    self._link_model(event)
                case "end":
                    self._client.set_terminated(self.run_id, event["status"], event["time"])
        except Exception as error:  # stores and servers raise what they like
            unusable = isinstance(error, FileNotFoundError | PermissionError | ImportError)  # the file or its store
            unknown = kind == "model" and _http_status(error) == 404  # to a server of MLflow 2
            if not (unusable or unknown or _http_status(error) in REFUSALS):
                raise
            self._require_run()  # if it was deleted, everything is refused
            if len(events) == 1:
                content = event.get("values") or event.get("path") or event.get("key") or kind
                log.warning("MLflow refuses %s of %s for good: %s", kind, content, first_line(error))
            else:
                for one in events:
                    self._send_events(kind, [one])

    def _start(self, event: dict[str, Any]) -> None:
        if not self.run_id:
            runs = self._client.search_runs([self._experiment_id], f"tags.`{JOURNAL_TAG}` = '{event['id']}'")
            if not runs:
                tags = {JOURNAL_TAG: event["id"]}
                runs = [self._client.create_run(self._experiment_id, event["time"], tags, event["name"])]
            self.run_id = runs[0].info.run_id
        self._client.update_run(self.run_id, status="RUNNING")
        self._log(
            params=[Param(key, value) for key, value in event["params"].items()],
            tags=[RunTag(key, value) for key, value in event["tags"].items()],
        )

    def _link_model(self, event: dict[str, Any]) -> None:
        """Create the run's entry in MLflow's table of models, once, and link metrics that the run has to it."""
        run = self._client.get_run(self.run_id)
        found = self._client.search_logged_models([run.info.experiment_id], f"source_run_id = '{self.run_id}'")
        model = next(iter(found), None) or self._client.create_logged_model(
            run.info.experiment_id,
            re.sub("""[/:.%"']""", "_", run.info.run_name),
            source_run_id=self.run_id,
            tags={"checkpoint": MODEL_FILE},
            params=run.data.params,
        )
        of_run = (point for key in event["metrics"] for point in self._client.get_metric_history(self.run_id, key))
        of_model = [
            Metric(point.key, point.value, point.timestamp, point.step, model_id=model.model_id)
            for point in of_run
            if point.step == event["step"]
        ]
        self._log(metrics=of_model)  # the run has these points already, and a store drops them there
        self._client.finalize_logged_model(model.model_id, "READY")

    def _log(self, **lists: Sequence[Any]) -> None:
        for kind, items in lists.items():
            for begin in range(0, len(items), ITEMS_A_CALL[kind]):
                self._client.log_batch(self.run_id, **{kind: items[begin : begin + ITEMS_A_CALL[kind]]})

    def _require_run(self) -> None:
        if self._client.get_run(self.run_id).info.lifecycle_stage == "deleted":
            raise InputError(
                f"tracking.uri={first_line(self.uri)}: run {self.run_id} was deleted there; restore it, or give "
                "another tracking.uri, to which everything is sent"
            )


class SystemMetrics(SystemMetricsMonitor):
    """Measure CPU, memory, disk, network and GPU by mlflow's own monitors, without their thread."""

    def read(self) -> dict[str, float]:
        """Return the present values by name; MLflow shows those that begin with system/ on a page of their own."""
        self.collect_metrics()
        metrics = self.aggregate_metrics()
        for source in self.monitors:
            source.clear_metrics()
        return {f"system/{key}": value for key, value in metrics.items()}


def find_experiment(uri: str | None, experiment: str) -> tuple[MlflowClient, str]:
    """Return a client to read with and the experiment's id. Nothing is created.

    raises: InputError if uri is null or malformed, or there is no such database, server or experiment
    """
    if uri is None:
        raise InputError(f"tracking.uri=null: the runs of {experiment} are read from MLflow; give its address")
    require_database(uri)
    with _as_input_error(uri):
        client = connect(uri)
        if found := client.get_experiment_by_name(experiment):
            return client, found.experiment_id
        names = sorted(other.name for other in client.search_experiments())
    raise InputError(f"tracking.experiment={experiment}: {uri} has none of this name, but {', '.join(names)}")


def require_database(uri: str) -> None:
    """InputError if an address is that of a file which is not there: it was moved, or nothing was tracked yet."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise InputError(
            f"tracking.uri={uri}: there is no such database; give that of your runs, or train first: "
            "python -m asr.train sweep=writeup scale=mini data.root=outputs/corpora/synthetic"
        )


def require_server(uri: str) -> None:
    """InputError if nobody answers at an address."""
    with _as_input_error(uri):
        connect(uri).search_experiments(max_results=1)


def connect(uri: str) -> MlflowClient:
    """Return a client. One process at a time makes or migrates a database in a file."""
    if not uri:  # mlflow would take a default of its own
        raise ValueError("it is empty")
    if not uri.startswith("sqlite"):
        return MlflowClient(uri)
    if not (database := _database(uri)):
        raise ValueError("a database in a file is sqlite:///FILE")
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock", timeout=120), closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA schema_version").close()  # mlflow tries ten times to open what is no database
        return MlflowClient(f"sqlite:///{database}")


def _database(uri: str) -> Path | None:
    found = re.fullmatch("sqlite:///([^?#%:]+)", uri)
    return Path(found[1]).absolute() if found else None


def _experiment_to_write(client: MlflowClient, name: str, uri: str) -> str:
    """Return the id of an experiment, which is created if there is none.

    raises: InputError if it is deleted, or its files would go to where the database was before: MLflow stores absolute
            addresses
    """
    database = _database(uri)
    folder = database.parent / "mlartifacts" if database else None
    found = client.get_experiment_by_name(name)
    if not found:
        try:
            return client.create_experiment(name, artifact_location=folder.as_uri() if folder else None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process may be first
                raise
            return _experiment_to_write(client, name, uri)
    if found.lifecycle_stage == "deleted":
        raise InputError(f"tracking.experiment={name} is deleted there; restore it or give another name")
    old = Path(url2pathname(urlsplit(found.artifact_location).path))
    is_ours = found.artifact_location.startswith("file:") and old.name == "mlartifacts"
    if folder and is_ours and old.resolve() != folder.resolve():
        raise InputError(
            f"tracking.experiment={name}: MLflow would put its files into {old}, since the database was moved or "
            f"copied from there to {folder.parent}; give a new tracking.experiment, or move it back"
        )
    return found.experiment_id


@contextmanager
def _as_input_error(uri: str) -> Iterator[None]:
    """Turn what mlflow and its stores raise into an InputError, or UnreachableError if it may pass."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError, ValueError) as error:
        way_out = "start the tracking server or use tracking.uri=sqlite:///outputs/mlflow.db"
        status, malformed = _http_status(error), isinstance(error.__cause__ or error.__context__, ValueError)
        if uri.startswith("http") and (status >= 500 or status == 429) and not malformed:
            reason: BaseException = error
            while inner := reason.__cause__ or reason.__context__:  # what the operating system said, if anything
                reason = inner
            raise UnreachableError(
                f"tracking.uri={first_line(uri)} does not answer ({first_line(reason)}); {way_out}"
            ) from error
        raise InputError(f"tracking.uri={first_line(uri)}: {first_line(error)}; {way_out}") from error


def _http_status(error: Exception) -> int:
    """Return the status of a server's answer that an error is, or would be; 0 if it has nothing to do with one."""
    if isinstance(error, HTTPError) and error.response is not None:  # from a store of artifacts
        return int(error.response.status_code)
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return 503 if isinstance(error, OSError) else 0
