"""A run while it is tracked: what it logs goes into its journal, from which a thread sends it on."""

import json
import logging
import math
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from asr.errors import first_line, mask
from asr.files import write_json, write_table
from asr.settings import flatten
from asr.tracking.journal import Cursor, Journal
from asr.tracking.provenance import code_version, package_versions

log = logging.getLogger(__name__)
PARAM_CHARACTERS = 6000  # MLflow's limit
PATIENCE_SECONDS = 30.0  # for MLflow, at a run's start and at its end
INTERRUPTED_SECONDS = 5.0  # at the end of one that was asked to stop: Slurm soon kills what does not
TABLES_TAG = "mlflow.loggedArtifacts"  # the files that MLflow's UI shows as tables


class Run:
    """An open run; as a context manager it ends FINISHED, FAILED (exception) or KILLED (KeyboardInterrupt).

    Logging writes to the journal and never waits for MLflow: a server that goes away ends no training.

    send:    sends what the cursor says is pending, until all is sent or its argument, an Event, is set
    kept:    whether the directory outlives the run, so that what is pending at the end can be sent later
    trouble: why MLflow cannot be reached at the start, which the user has been told
    """

    def __init__(self, journal: Journal, cursor: Cursor, send: Callable[[threading.Event], None], *, kept: bool,
                 trouble: str, flush_seconds: float, retry_seconds: float) -> None:  # fmt: skip
        self._journal, self._cursor, self._send, self._kept = journal, cursor, send, kept
        self._flush_seconds, self._retry_seconds = flush_seconds, retry_seconds
        self._ending, self._abandoned, self._tried_once = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send_until_end, name="Sender", daemon=True)
        self._trouble = trouble
        self._open = True
        self.monitor: Any = None  # of system metrics; it has a method finish
        self.resources = ExitStack()  # what is closed when all is sent

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None until MLflow has answered."""
        return self._cursor.run_id

    def start(self, uri: str, experiment: str, name: str, params: Mapping[str, str], tags: Mapping[str, object],
              config: Mapping[str, Any], resumed: int) -> None:  # fmt: skip
        """Logs the beginning of a run or, if resumed counts from 1, of its continuation, and begins to send.

        What goes beside the params and tags lies in start/ or in resume_1/, resume_2/, ...
        """
        code = code_version(Path(__file__).parent)
        folder, commit_tag = "start", "mlflow.source.git.commit"
        if resumed:  # MLflow keeps a parameter as it was first; the new config is a file
            folder, commit_tag = f"resume_{resumed}", f"resume_{resumed}.commit"
            tags = {**tags, "resumed": resumed}
        tags = {**tags, "mlflow.user": os.environ.get("USER", "unknown"), "mlflow.source.name": sys.argv[0]}
        tags |= {commit_tag: code.commit, f"{folder}.dirty": code.dirty}
        texts = {key: str(value) for key, value in tags.items()}
        self._journal.append(
            "start", id=uuid4().hex, uri=uri, experiment=experiment, name=name, params=dict(params), tags=texts
        )
        packages = "".join(f"{package}=={version}\n" for package, version in package_versions().items())
        files = {"packages.txt": packages, "config.json": json.dumps(config, indent=2, default=str)}
        for file, text in (files | ({"git_diff.patch": mask(code.diff)} if code.diff else {})).items():
            self.log_text(text, f"{folder}/{file}")
        self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs a point of each metric, unless the journal has one of this or a later step: then it is made again.

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
        self._journal.append("tag", key=key, value=str(value))

    def log_file(self, path: str | Path, folder: str = "") -> None:
        """The file is read when it is sent, so it must stay where it is."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file to log; write it first")
        self._journal.append("file", path=os.path.relpath(path, self._journal.directory), folder=folder)

    def log_text(self, text: str, path: str) -> None:
        """Writes it to this path in the run's directory, and logs the file."""
        file = self._journal.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self._log_written(file)

    def log_table(self, rows: Sequence[dict[str, Any]], path: str) -> None:
        """Writes rows of like keys as path.tsv, to read, and path.json, MLflow's table; give each its own path."""
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

    def wait_until_tried(self) -> None:
        """Waits until the start is sent or could not be sent, or for PATIENCE_SECONDS."""
        self._tried_once.wait(PATIENCE_SECONDS)

    def finish(
        self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED", patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Ends the run; waits so long at most until all is sent, and says what is not."""
        if not self._open:
            return
        self._open = False
        with self.resources:
            if self.monitor:
                self.monitor.finish()
            self._journal.append("end", status=status)
            self._ending.set()
            self._thread.join(patience_seconds)
            self._abandoned.set()
            self._tell_what_is_missing(patience_seconds)

    def _tell_what_is_missing(self, waited_seconds: float) -> None:
        name, directory = self._journal.start["name"], self._journal.directory
        if pending := self._cursor.pending(directory):
            trouble = self._trouble or f"not done in {waited_seconds:.0f} s"
            command = shlex.join(["python", "-m", "asr.sync", f"runs={os.path.relpath(directory)}"])
            way_out = f"they are kept, and sent by: {command}" if self._kept else "they are lost"
            log.error("%s: %d events of run %s have not reached MLflow; %s", trouble, pending, name, way_out)
        if self._cursor.refused:
            log.error("MLflow refused %d entries of run %s for good", self._cursor.refused, name)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and issubclass(kind, KeyboardInterrupt):
            self.finish("KILLED", INTERRUPTED_SECONDS)
        else:
            self.finish("FAILED" if kind else "FINISHED")

    def _send_until_end(self) -> None:
        while True:
            last = self._ending.is_set()  # asked before sending: then the journal is whole
            try:
                self._send(self._abandoned)
                self._trouble = ""
            except Exception as error:  # stores and servers raise what they like
                if not self._trouble and not last:
                    log.warning("%s; the run goes on, and its journal is sent later", first_line(error))
                self._trouble = first_line(error)
            self._tried_once.set()
            if last:
                return
            self._ending.wait(self._retry_seconds if self._trouble else self._flush_seconds)


def flat_params(choices: Mapping[str, object], config: Mapping[str, Any]) -> dict[str, str]:
    """{model: {gru_layers: 7}} as {"model.gru_layers": "7"}; a config key that a choice has taken is config.KEY."""
    leaves = {f"config.{key}" if key in choices else key: value for key, value in flatten(config).items()}
    cut = "... (all of it in config.json)"
    texts = {key: str(value) for key, value in (dict(choices) | leaves).items()}
    return {k: t if len(t) <= PARAM_CHARACTERS else t[: PARAM_CHARACTERS - len(cut)] + cut for k, t in texts.items()}
