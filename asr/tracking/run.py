"""A run while it is tracked: what it logs goes into its journal, from which a thread sends it to MLflow."""

import json
import logging
import math
import os
import re
import shlex
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from asr.errors import InputError, first_line, mask
from asr.files import write_json, write_table
from asr.passwords import move_passwords
from asr.settings import flatten, within
from asr.tracking.journal import Journal
from asr.tracking.provenance import code_version, package_versions

if TYPE_CHECKING:  # imports mlflow, which takes seconds and which tracking.uri=null does without
    from asr.tracking.mlflow import Sender, SystemMetrics

log = logging.getLogger(__name__)
NAME_CHARACTERS = 60  # of a run in MLflow, whose table shows about 30 until its column is widened
KEY_CHARACTERS, PARAM_CHARACTERS = 250, 6000  # MLflow's limits
SEND_SECONDS = 10.0  # from the end of one sending to the next, without system metrics
PATIENCE_SECONDS = 30.0  # at a run's end, until MLflow has what is pending
INTERRUPTED_SECONDS = 5.0  # at the end of one that was asked to stop: Slurm soon kills what does not
# Settings that tell nothing of what a run computes, or only what batch.utterances tells. MLflow's page that compares
# runs opens on the first three names that differ: these should be groups.
NO_PARAMS = ("tracking", "output_dir", "dry_run", "fresh", "batch.at_full_scale", "batch.divided_by")
TABLES_TAG = "mlflow.loggedArtifacts"  # the files that MLflow's UI shows as tables


@dataclass(frozen=True)
class Destination:
    """Where a run is tracked.

    uri: sqlite:///FILE, relative to the working directory, or what else MLflow takes (http://HOST:PORT); None for the
         journal alone, without system metrics, as mlflow measures them
    system_metrics_seconds: from one measurement to the next, after each of which the journal is sent; None for none
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
        """Return what MLflow shows as columns: the choices, what was typed, and settings that no choice decides.

        A choice decides what is below a _target_, but the learning rate is shown. All of the config is in config.json.
        """
        settings, params = flatten(self.config), dict(self.choices)
        decided = [key.removesuffix("._target_") for key in settings if key.endswith("._target_")]
        typed = [override.lstrip("+").partition("=")[0] for override in self.overrides]
        shown = ["optimizer.lr", *(key for key in typed if key not in self.choices)]
        for key, value in settings.items():
            plain = not isinstance(value, list | Mapping) and not within(key, [*decided, *NO_PARAMS])
            if plain or within(key, shown):
                params.setdefault(key, value)
        return {_valid(key): str(value)[:PARAM_CHARACTERS] for key, value in params.items()}


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


def own_directory(output_dir: str) -> Path:
    """Return a new directory for the journal of a call that shares output_dir, or its MLflow run, with others."""
    return Path(output_dir) / f"tracked-{uuid4().hex[:8]}"


def _valid(key: str) -> str:
    """Return the name of a metric or parameter as MLflow takes it."""
    return re.sub(r"[^/\w.\- ]", "_", key)[:KEY_CHARACTERS]


def open_run(
    journal: Journal | Path, destination: Destination, description: Description, run_id: str | None = None
) -> "Run":
    """Start a run or, where the journal has one already, resume it.

    A server that does not answer is a warning: the journal is sent when it answers again, or by asr.sync.

    journal: the run's, which is closed at its end, or the directory to open it in
    run_id:  of an MLflow run to join, which other journals log to as well
    raises:  InputError if uri is malformed, a database cannot be used, experiment is deleted or run_id unknown, or
             another process has the directory
    """
    journal = Journal(journal) if isinstance(journal, Path) else journal
    try:
        run = Run(journal, destination, run_id)
        run.log_start(destination.experiment, description, journal.starts or (run_id and journal.directory.name))
        run.start_thread()
        return run
    except BaseException:
        journal.close()
        raise


class Run:
    """An open run; as a context manager it ends FINISHED, FAILED (exception) or KILLED (KeyboardInterrupt).

    Logging writes to the journal and never waits for MLflow: a server that goes away ends no training.
    """

    def __init__(self, journal: Journal, destination: Destination, run_id: str | None) -> None:
        self._journal, self._metrics_seconds = journal, destination.system_metrics_seconds
        self._sender: Sender | None = None
        self._trouble = ""  # why MLflow cannot be reached, which has been reported
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_until_end, name="Tracking", daemon=True)
        if destination.uri is not None:
            from asr.tracking import mlflow

            self._sender = mlflow.Sender(journal, move_passwords(destination.uri), destination.experiment, run_id)
            try:
                self._sender.connect()
            except mlflow.UnreachableError as error:
                self._warn(error)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None until MLflow has answered."""
        return self._sender.run_id if self._sender else None

    def log_start(self, experiment: str, description: Description, resumed: int | str | None) -> None:
        """Log what the run is, what it runs on and, as files in start/, or resume_1/, resume_2/, ..., its config.

        MLflow keeps a parameter as it was first, so only the first start has parameters.
        """
        code, folder = code_version(Path(__file__).parent), f"resume_{resumed}" if resumed else "start"
        tags = {
            f"{folder}.commit" if resumed else "mlflow.source.git.commit": code.commit,
            f"{folder}.dirty": code.dirty,
            "mlflow.source.name": sys.argv[0],
            "mlflow.user": os.environ.get("USER", "unknown"),
            "directory": os.path.relpath(self._journal.directory),
            **({"resumed": resumed} if resumed else {}),
        }
        self._journal.append(
            "start",
            id=uuid4().hex,
            uri=self._sender.uri if self._sender else None,
            experiment=experiment,
            name=description.name,
            params={} if resumed else description.params(),
            tags={key: str(value) for key, value in {**description.tags, **tags}.items()},
        )
        packages = "".join(f"{package}=={version}\n" for package, version in package_versions().items())
        self.log_text(packages, f"{folder}/packages.txt")
        self.log_text(json.dumps(description.config, indent=2, default=str), f"{folder}/config.json")
        if code.diff:
            self.log_text(mask(code.diff), f"{folder}/git_diff.patch")

    def start_thread(self) -> None:
        """Send the start if the server answers, and begin to send and to measure in a thread."""
        if self._sender:
            if not self._trouble:
                self._send()
            self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log a point of each metric unless the journal has one of this or a later step, as after a resume.

        SQL stores turn inf into 1.8e308, so the first value of a metric that is not finite is a tag too.
        """
        names = {_valid(key): float(value) for key, value in metrics.items()}
        new = {name: value for name, value in names.items() if self._journal.last_steps.get(name, step - 1) < step}
        for name, value in new.items():
            if not math.isfinite(value) and f"first_non_finite.{name}" not in self._journal.tags:
                self.set_tag(f"first_non_finite.{name}", f"{value} at step {step}")
        if new:
            self._journal.append("metrics", step=int(step), values=new)

    def set_tag(self, key: str, value: object) -> None:
        """Log a tag; its last value counts."""
        self._journal.append("tag", key=key, value=str(value))

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file, which is read when it is sent, so it must stay where it is.

        folder: in MLflow; None for the same as in the run's directory
        """
        relative = os.path.relpath(path, self._journal.directory)
        if folder is None:
            folder = "" if relative.startswith("..") else os.path.dirname(relative)
        self._journal.append("file", path=relative, folder=folder)

    def log_dataset(self, name: str, role: str, digest: str, root: str, profile: Mapping[str, float]) -> None:
        """Log data that the run uses as `role` (train, dev, test); the same name and digest are the same data."""
        self._journal.append("dataset", name=name, role=role, digest=digest, root=mask(root), profile=dict(profile))

    def log_model(self, metrics: Iterable[str], step: int) -> None:
        """Log that the weights of a step are the run's model, whose quality these metrics of that step tell."""
        self._journal.append("model", metrics=[_valid(name) for name in metrics], step=step)

    def log_text(self, text: str, path: str) -> None:
        """Write a text to this path in the run's directory, and log the file."""
        file = self._journal.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.log_file(file)

    def log_table(self, rows: Sequence[dict[str, Any]], path: str) -> None:
        """Write rows of like keys as path.tsv, to read, and path.json, MLflow's table; they replace what was there.

        So a table that grows is logged whole each time, and a row that is logged again is there once.
        """
        columns = list(rows[0]) if rows else []
        table = {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}
        self.log_file(write_table(rows, self._journal.directory / f"{path}.tsv"))
        self.log_file(write_json(table, self._journal.directory / f"{path}.json"))
        tables = json.loads(self._journal.tags.get(TABLES_TAG, "[]"))
        if (entry := {"path": f"{path}.json", "type": "table"}) not in tables:
            self.set_tag(TABLES_TAG, json.dumps([*tables, entry]))

    def finish(
        self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED", patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """End the run, wait at most so long until all is sent, report what is not, and close the journal."""
        if self._ended.is_set():
            return
        with closing(self._journal):
            self._journal.append("end", status=status)
            self._ended.set()
            if not self._sender:
                return
            self._thread.join(patience_seconds)
            if pending := self._sender.count_pending():
                trouble = self._trouble or f"not done in {patience_seconds:.0f} s"
                command = shlex.join(["python", "-m", "asr.sync", f"runs={os.path.relpath(self._journal.directory)}"])
                log.error("%s: %d events have not reached MLflow; to send them: %s", trouble, pending, command)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and issubclass(kind, KeyboardInterrupt):
            self.finish("KILLED", INTERRUPTED_SECONDS)
        else:
            self.finish("FAILED" if kind else "FINISHED")

    def _send_until_end(self) -> None:
        from asr.tracking import mlflow

        assert self._sender
        metrics = mlflow.SystemMetrics("", tracking_uri=self._sender.uri) if self._metrics_seconds else None
        while not self._ended.wait(self._metrics_seconds or SEND_SECONDS):
            self._send(metrics)
        self._send()

    def _send(self, metrics: "SystemMetrics | None" = None) -> None:
        """Measure with `metrics`, if given, and send what is pending; warn if that is not possible now."""
        assert self._sender
        try:
            if metrics:
                values, last_steps = metrics.read(), self._journal.last_steps
                self.log_metrics(values, 1 + max((last_steps.get(name, -1) for name in values), default=0))
            self._sender.send()
            self._trouble = ""
        except Exception as error:  # stores and servers raise what they like
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Report why MLflow has nothing of what is pending, once until it works again."""
        if not (self._trouble or self._ended.is_set()):
            log.warning("%s. The run continues, and its journal is sent later", first_line(error))
        self._trouble = first_line(error)


def send_pending(journal: Journal) -> None:
    """Send what MLflow lacks of a run that has ended; if that is not possible now, warn and leave it to asr.sync."""
    if (uri := journal.start["uri"]) is not None:
        from asr.tracking.mlflow import Sender

        try:
            Sender(journal, uri, journal.start["experiment"]).send()
        except InputError as error:
            log.warning("%s; send what MLflow lacks of this run later, by asr.sync", error)
