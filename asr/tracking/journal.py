"""The journal of a run: everything that it logs, one event a line, and how much of that MLflow has.

A run's directory holds journal.jsonl, journal.lock while a process writes, and mlflow.json, the cursor.
"""

import errno
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from asr.errors import InputError
from asr.files import write_json

JOURNAL, LOCK, CURSOR = "journal.jsonl", "journal.lock", "mlflow.json"
LOCK_SECONDS = 10.0  # the loader processes of a killed run may hold its lock some seconds longer


class BusyError(InputError):
    """Another process holds the journal."""


class UnreachableError(InputError):
    """A tracking server does not answer, or reports that it is not well; later it may be."""


class Entry(NamedTuple):
    """An event of the journal and the byte at which the next one begins."""

    event: dict[str, Any]
    end: int


def read(path: Path, position: int = 0) -> Iterator[Entry]:
    """Yield the events from a byte on, up to a last line that is incomplete; InputError if another is damaged."""
    with open(path, "rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            try:
                event = json.loads(line)
                event["kind"], event["time"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}: the line that ends at byte {position} is damaged; delete it, the others can be used"
                ) from error
            yield Entry(event, position)


def has_finished(directory: Path) -> bool:
    """Return whether the run in a directory has results and its journal, which is written last, ends with FINISHED."""
    if not (directory / "results.json").exists() or not (directory / JOURNAL).exists():
        return False
    last = deque(read(directory / JOURNAL), maxlen=1)
    return bool(last) and last[0].event["kind"] == "end" and last[0].event["status"] == "FINISHED"


class Journal:
    """The journal of a directory, open in one process at a time.

    starts:     how often the run was started so far
    start:      the last event of the kind start; empty where there is none
    params:     the names of all parameters; tags: the last value of each tag
    last_steps: the highest step of each metric, by which a run that resumes knows which points were logged before

    raises: BusyError if another process still has it after wait_seconds
    """

    def __init__(self, directory: Path, wait_seconds: float = LOCK_SECONDS) -> None:
        self.directory, self.path = directory, directory / JOURNAL
        self.starts, self.start = 0, dict[str, Any]()
        self.params, self.tags, self.last_steps = set[str](), dict[str, str](), dict[str, int]()
        self._writing = threading.Lock()  # the training loop and the system metrics' thread both write
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(directory / LOCK)  # the system releases it when the process ends, even by kill -9
        try:
            self._lock.acquire(timeout=wait_seconds)
        except Timeout as error:
            raise BusyError(
                f"{directory} is being trained by another process: wait for its end or stop it; another output_dir "
                "trains beside it"
            ) from error
        # Unbuffered, so that a line that is written survives any end of the process.
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._size = 0
            for entry in read(self.path):
                self._remember(entry.event)
                self._size = entry.end
            os.ftruncate(self._file, self._size)  # drops an incomplete line
        except BaseException:
            self.close()
            raise

    def append(self, kind: str, **content: Any) -> None:
        """Write an event with the time in milliseconds. A full disk raises OSError and leaves the journal as it was."""
        event = {"kind": kind, "time": int(time.time() * 1000), **content}
        line = (json.dumps(event) + "\n").encode()
        with self._writing:
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._size += len(line)
            self._remember(event)

    def sync_to_disk(self) -> None:
        """Return when what was written also survives a power cut."""
        os.fsync(self._file)

    def close(self) -> None:
        """Release the lock. An empty journal is deleted, and its directory with it if that holds nothing else."""
        empty = os.fstat(self._file).st_size == 0
        os.close(self._file)
        if empty:
            self.path.unlink(missing_ok=True)
            (self.directory / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # it holds other files
                self.directory.rmdir()
        self._lock.release()

    def _remember(self, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "start":
                self.starts, self.start = self.starts + 1, event
                self.params |= event["params"].keys()
                self.tags |= event["tags"]
            case "tag":
                self.tags[event["key"]] = event["value"]
            case "metrics":
                for key in event["values"]:
                    self.last_steps[key] = max(event["step"], self.last_steps.get(key, event["step"]))


@dataclass
class Cursor:
    """How much of a directory's journal has arrived at an address, and in which MLflow run.

    sent:    bytes of the journal
    refused: how many points, parameters, tags and files MLflow refuses for good
    """

    uri: str
    run_id: str | None = None
    sent: int = 0
    refused: int = 0

    @classmethod
    def load(cls, directory: Path) -> "Cursor | None":
        """Read what was saved in the directory; None if nothing was."""
        path = directory / CURSOR
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged; delete it: everything is sent again, and taken once") from error

    def save(self, directory: Path) -> None:
        """Write mlflow.json."""
        write_json(asdict(self), directory / CURSOR)

    def pending(self, directory: Path) -> int:
        """Count the events that were not sent."""
        path = directory / JOURNAL
        return sum(1 for _ in read(path, self.sent)) if path.exists() else 0
