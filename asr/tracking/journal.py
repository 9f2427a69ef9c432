"""A run's journal: everything that it logs, one event a line, in its own directory; and how far a server has it.

The directory holds journal.jsonl, journal.lock while a process writes, and mlflow.json, the cursor.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from asr.errors import InputError
from asr.files import write_json

JOURNAL, LOCK, CURSOR = "journal.jsonl", "journal.lock", "mlflow.json"
# A killed run's loader processes may outlive it by some seconds, with its lock.
LOCK_SECONDS = 10.0


class BusyError(InputError):
    """Another process holds the journal."""


class Entry(NamedTuple):
    """An event of the journal and the byte at which the next one begins."""

    event: dict[str, Any]
    end: int


def read(path: Path, position: int = 0) -> Iterator[Entry]:
    """The events from a byte on; a last line that is not whole yet, or was cut off, is none."""
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
    """Whether the run in a directory came to its end: its journal's last event says so, and its results are there.

    The journal's end is the mark, as it is written last: whatever is logged of a run is in the journal before it.
    """
    if not (directory / "results.json").exists() or not (directory / JOURNAL).exists():
        return False
    last: dict[str, Any] = {}
    for entry in read(directory / JOURNAL):
        last = entry.event
    return last.get("kind") == "end" and last["status"] == "FINISHED"


class Journal:
    """The journal of a directory, open for one process at a time.

    starts:     how often the run was started so far
    start:      the last event of the kind start; empty where there is none
    params:     the names of all parameters; tags: the last value of each tag
    last_steps: the highest step of each metric. A run that goes back to its last checkpoint makes the same points
                again; by this it knows which ones are here already

    raises: BusyError if another process still has it after wait_seconds
    """

    def __init__(self, directory: Path, wait_seconds: float = LOCK_SECONDS) -> None:
        self.directory, self.path = directory, directory / JOURNAL
        self.starts, self.start = 0, dict[str, Any]()
        self.params, self.tags, self.last_steps = set[str](), dict[str, str](), dict[str, int]()
        self._writing = threading.Lock()  # the training loop and the system metrics' thread both write
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(directory / LOCK)  # goes with its process, also a killed one
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
            os.ftruncate(self._file, self._size)  # without what was cut off
        except BaseException:
            self.close()
            raise

    def append(self, kind: str, **content: Any) -> None:
        """Writes an event, with the time in milliseconds; OSError, and nothing written, where the disk is full."""
        event = {"kind": kind, "time": int(time.time() * 1000), **content}
        line = (json.dumps(event) + "\n").encode()
        with self._writing:
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._size += len(line)
            self._remember(event)

    def sync_to_disk(self) -> None:
        """Returns when what was written also survives a power cut."""
        os.fsync(self._file)

    def close(self) -> None:
        """Let others write. A journal in which nothing was written leaves no trace: the run was refused."""
        empty = os.fstat(self._file).st_size == 0
        os.close(self._file)
        if empty:
            for name in (JOURNAL, LOCK):
                (self.directory / name).unlink(missing_ok=True)
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
    """How much of a directory's journal has arrived in which run at which address.

    sent:    bytes of the journal
    refused: how many points, parameters, tags and files will never be taken
    """

    uri: str
    run_id: str | None = None
    sent: int = 0
    refused: int = 0

    @classmethod
    def load(cls, directory: Path) -> "Cursor | None":
        """What was saved in the directory; None if nothing was."""
        path = directory / CURSOR
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged; delete it: everything is sent again, and taken once") from error

    def save(self, directory: Path) -> None:
        """Whole or not at all."""
        write_json(asdict(self), directory / CURSOR)

    def pending(self, directory: Path) -> int:
        """How many events have not been sent."""
        path = directory / JOURNAL
        return sum(1 for _ in read(path, self.sent)) if path.exists() else 0
