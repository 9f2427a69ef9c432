"""A run while it is tracked: what it logs goes into its journal, from which a thread sends it to MLflow."""

import json
import logging
import math
import os
import re
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from asr.errors import InputError, first_line, mask
from asr.files import write_json, write_table
from asr.passwords import move_passwords
from asr.settings import flatten, within
from asr.tracking.journal import Cursor, Journal, UnreachableError
from asr.tracking.provenance import code_version, package_versions

if TYPE_CHECKING:  # imports mlflow, which takes seconds and which tracking.uri=null does without
    from asr.tracking.mlflow import Sender

log = logging.getLogger(__name__)
NAME_CHARACTERS = 29  # of a run in MLflow's table
PARAM_CHARACTERS = 6000  # MLflow's limit
SEND_SECONDS = 10.0  # from the end of one sending to the next
PATIENCE_SECONDS = 30.0  # at a run's start and at its end, until MLflow has what is pending
INTERRUPTED_SECONDS = 5.0  # at the end of one that was asked to stop: Slurm soon kills what does not
NO_PARAMS = ("tracking", "output_dir", "dry_run", "fresh")  # settings that tell nothing of what a run computes
TABLES_TAG = "mlflow.loggedArtifacts"  # the files that MLflow's UI shows as tables


@dataclass(frozen=True)
class Destination:
    """Where a run is tracked.

    uri: sqlite:///FILE, relative to the working directory, or what else MLflow takes (http://HOST:PORT); None for the
         journal alone, without system metrics, as mlflow measures them
    """

    uri: str | None
    experiment: str
    system_metrics_seconds: float | None = None


@dataclass(frozen=True)
class Description:
    """What a run is: its name in MLflow, choices by group, whole config, the overrides that were typed, and tags."""

    name: str
    choices: Mapping[str, object] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    tags: Mapping[str, object] = field(default_factory=dict)

    def params(self) -> dict[str, str]:
        """Return what MLflow shows as columns; all of the config is in config.json.

        These are the choices, the settings that were typed, the learning rate, and the numbers and texts of the
        config but for those below a _target_, which a choice decides, and NO_PARAMS.
        """
        settings = flatten(self.config)
        typed = [key for key in (o.lstrip("+").partition("=")[0] for o in self.overrides) if key not in self.choices]
        targets = [key.removesuffix("._target_") for key in settings if key.endswith("._target_")]
        params = dict(self.choices)
        for key, value in settings.items():
            plain = not isinstance(value, list | Mapping) and not within(key, [*targets, *NO_PARAMS])
            if key not in params and (plain or key == "optimizer.lr" or within(key, typed)):
                params[key] = value
        cut = "... (all of it in config.json)"
        texts = {key: str(value) for key, value in params.items()}
        return {
            k: t if len(t) <= PARAM_CHARACTERS else t[: PARAM_CHARACTERS - len(cut)] + cut for k, t in texts.items()
        }


def short_name(overrides: Sequence[str], first: str = "") -> str:
    """Return a name for MLflow's table, such as "exp3 mini seed=7": `first`, then as many overrides as fit.

    Paths and lists are left out; the tag `command` has all.
    """
    values = {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in overrides)}
    name = " ".join([*filter(None, [first]), *(values.pop(key) for key in ("experiment", "scale") if key in values)])
    name = name[:NAME_CHARACTERS]
    for key, value in values.items():
        longer = f"{name} {key.rpartition('.')[2]}={value}".strip()
        if len(longer) <= NAME_CHARACTERS and not re.search(r"[/\[{ ]", value):
            name = longer
    return name or "default"


def open_run(
    directory: Journal | Path | None, destination: Destination, description: Description, run_id: str | None = None
) -> "Run":
    """Start a run or, where the directory or run_id has one of this uri, continue it.

    Everything that is logged goes into the directory's journal first. A server that does not answer is a warning: the
    journal is sent when it answers again, or by asr.sync.

    directory: the run's, or the journal that the caller has opened there; None for a run that needs MLflow at its
               start, and that loses what MLflow has not got at its end
    raises:    InputError if uri is malformed, a database cannot be used, experiment is deleted or run_id unknown, or
               another process has the directory; without a directory also if uri is None or its server is away
    """
    sender, trouble, stored = None, "", None
    with ExitStack() as resources:
        if isinstance(directory, Journal):
            journal = directory
        else:
            folder = directory or Path(resources.enter_context(TemporaryDirectory(prefix="asr-")))
            journal = resources.enter_context(closing(Journal(folder)))
        if destination.uri is not None:
            from asr.tracking.mlflow import Sender

            sender = Sender(journal, move_passwords(destination.uri), destination.experiment, run_id)
            try:
                stored = sender.connect()
            except UnreachableError as error:
                if directory is None:
                    raise
                trouble = str(error)
                log.warning("%s. The run goes on and is sent when the server answers, or by asr.sync", trouble)
        elif directory is None:
            raise InputError(f"tracking.uri=null: {description.name} is kept in MLflow alone; give an address of one")
        run = Run(journal, sender, trouble, kept=directory is not None)
        run.log_start(destination.experiment, description, stored)
        run.resources = resources.pop_all()
    try:
        run.start_threads(destination.system_metrics_seconds)
        if directory is None and run.run_id is None:
            raise UnreachableError(f"tracking.uri={first_line(destination.uri)}: no run could be created there in time")
    except BaseException:
        run.finish("FAILED")
        raise
    return run


class Run:
    """An open run; as a context manager it ends FINISHED, FAILED (exception) or KILLED (KeyboardInterrupt).

    Logging writes to the journal and never waits for MLflow: a server that goes away ends no training.

    sender:    sends the journal to MLflow; None if it is not sent
    trouble:   why MLflow cannot be reached, which the user has been told; empty if it can
    kept:      whether the directory outlives the run, so that what is pending at the end can be sent later
    resources: closed at the end
    """

    def __init__(self, journal: Journal, sender: "Sender | None", trouble: str, kept: bool) -> None:
        self._journal, self._sender, self._trouble, self._kept = journal, sender, trouble, kept
        self._measured, self._ending, self._abandoned, self._tried = (threading.Event() for _ in range(4))
        self._sending = threading.Thread(target=self._send_until_end, name="Sender", daemon=True)
        self._measuring: threading.Thread | None = None  # of system metrics
        self._open = True
        self.resources = ExitStack()

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None until MLflow has answered."""
        return self._sender.cursor.run_id if self._sender else None

    def log_start(self, experiment: str, description: Description, stored: Any = None) -> None:
        """Log the beginning of the run or of its continuation.

        What goes beside the params and tags lies in start/ or in resume_1/, resume_2/, ...

        stored: the run as MLflow has it, if it is continued
        """
        resumed, known, code = self._journal.starts, self._journal.params, code_version(Path(__file__).parent)
        if stored and not resumed:  # MLflow knows of an earlier start, which this journal does not
            resumed, known = int(stored.data.tags.get("resumed", 0)) + 1, set(stored.data.params)
        folder, tags = "start", {"mlflow.source.git.commit": code.commit}
        if resumed:  # MLflow keeps a parameter as it was first; the new config is a file
            folder, tags = f"resume_{resumed}", {f"resume_{resumed}.commit": code.commit, "resumed": str(resumed)}
        tags |= {f"{folder}.dirty": str(code.dirty), "mlflow.source.name": sys.argv[0]}
        tags |= {"mlflow.user": os.environ.get("USER", "unknown")}
        if self._kept:
            tags["directory"] = os.path.relpath(self._journal.directory)
        self._journal.append(
            "start",
            id=uuid4().hex,
            uri=self._sender.cursor.uri if self._sender else None,
            experiment=experiment,
            name=description.name,
            params={key: value for key, value in description.params().items() if key not in known},
            tags={key: str(value) for key, value in description.tags.items()} | tags,
        )
        packages = "".join(f"{package}=={version}\n" for package, version in package_versions().items())
        self.log_text(packages, f"{folder}/packages.txt")
        self.log_text(json.dumps(description.config, indent=2, default=str), f"{folder}/config.json")
        if code.diff:
            self.log_text(mask(code.diff), f"{folder}/git_diff.patch")

    def start_threads(self, system_metrics_seconds: float | None) -> None:
        """Begin to send and to measure, and wait some seconds until the start has arrived."""
        if not self._sender:
            return
        self._sending.start()
        if system_metrics_seconds:
            self._measuring = threading.Thread(
                target=self._measure_until_end, args=[system_metrics_seconds], name="SystemMetricsMonitor", daemon=True
            )
            self._measuring.start()
        if not self._trouble:
            self._tried.wait(PATIENCE_SECONDS)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log a point of each metric unless the journal has one of this or a later step, as after a resume.

        SQL stores turn inf into 1.8e308, so the first value of a metric that is not finite is a tag too.
        """
        names = {re.sub(r"[^/\w.\- ]", "_", key): float(value) for key, value in metrics.items()}
        new = {name: value for name, value in names.items() if self._journal.last_steps.get(name, step - 1) < step}
        for name, value in new.items():
            if not math.isfinite(value) and f"first_non_finite.{name}" not in self._journal.tags:
                self.set_tag(f"first_non_finite.{name}", f"{value} at step {step}")
        if new:
            self._journal.append("metrics", step=int(step), values=new)

    def set_tag(self, key: str, value: object) -> None:
        """Log a tag; its last value counts."""
        self._journal.append("tag", key=key, value=str(value))

    def log_file(self, path: str | Path, folder: str = "") -> None:
        """Log a file, which is read when it is sent, so it must stay where it is."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file to log; write it first")
        self._journal.append("file", path=os.path.relpath(path, self._journal.directory), folder=folder)

    def log_text(self, text: str, path: str) -> None:
        """Write a text to this path in the run's directory, and log the file."""
        file = self._journal.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self._log_written(file)

    def log_table(self, rows: Sequence[dict[str, Any]], path: str) -> None:
        """Write rows of like keys as path.tsv, to read, and path.json, MLflow's table; they replace what was there.

        So a table that grows is logged whole each time, and a row that is logged again is there once.
        """
        columns = list(rows[0]) if rows else []
        table = {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}
        file = self._journal.directory / path
        self._log_written(write_table(rows, file.with_name(f"{file.name}.tsv")))
        self._log_written(write_json(table, file.with_name(f"{file.name}.json")))
        tables = json.loads(self._journal.tags.get(TABLES_TAG, "[]"))
        if (entry := {"path": f"{path}.json", "type": "table"}) not in tables:
            self.set_tag(TABLES_TAG, json.dumps([*tables, entry]))

    def _log_written(self, file: Path) -> None:
        folder = file.parent.relative_to(self._journal.directory).as_posix()
        self.log_file(file, "" if folder == "." else folder)

    def finish(
        self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED", patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """End the run, wait at most so long until all is sent, and report what is not."""
        if not self._open:
            return
        self._open = False
        with self.resources:
            self._measured.set()
            if self._measuring:
                self._measuring.join()
            self._journal.append("end", status=status)
            self._ending.set()
            if self._sender:
                self._sending.join(patience_seconds)
                self._abandoned.set()
                self._report_missing(self._sender.cursor, patience_seconds)

    def _report_missing(self, cursor: Cursor, waited_seconds: float) -> None:
        directory = os.path.relpath(self._journal.directory)
        if pending := cursor.pending(self._journal.directory):
            trouble = self._trouble or f"not done in {waited_seconds:.0f} s"
            command = shlex.join(["python", "-m", "asr.sync", f"runs={directory}"])
            way_out = f"they are kept, and sent by: {command}" if self._kept else "they are lost"
            log.error("%s: %d events have not reached MLflow; %s", trouble, pending, way_out)
        if cursor.refused:
            log.error("MLflow refused %d entries of %s for good", cursor.refused, directory)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and issubclass(kind, KeyboardInterrupt):
            self.finish("KILLED", INTERRUPTED_SECONDS)
        else:
            self.finish("FAILED" if kind else "FINISHED")

    def _send_until_end(self) -> None:
        assert self._sender
        last = False
        while not (last or self._abandoned.is_set()):
            last = self._ending.is_set()  # read before sending: then the journal is whole
            try:
                self._sender.send(self._abandoned)
                self._trouble = ""
            except Exception as error:  # stores and servers raise what they like
                if not self._trouble and not last:
                    log.warning("%s; the run goes on, and its journal is sent later", first_line(error))
                self._trouble = first_line(error)
            self._tried.set()
            self._ending.wait(SEND_SECONDS)

    def _measure_until_end(self, seconds: float) -> None:
        from asr.tracking.mlflow import SystemMetrics

        assert self._sender
        metrics = SystemMetrics(self._sender.cursor.uri)
        while not self._measured.wait(seconds):
            values = metrics.read()
            last_steps = self._journal.last_steps
            self.log_metrics(values, 1 + max((last_steps.get(name, -1) for name in values), default=0))


def send_pending(journal: Journal) -> None:
    """Send what MLflow lacks of a run that has ended; if the server is away, warn and leave it to asr.sync."""
    if (uri := journal.start["uri"]) is None:
        return
    from asr.tracking.mlflow import Sender, require_database

    sender = Sender(journal, uri, journal.start["experiment"])
    if sender.cursor.pending(journal.directory):
        try:
            require_database(sender.cursor.uri)
            sender.send()
        except InputError as error:
            log.warning("%s; send what MLflow lacks of this run later, by asr.sync", error)
