"""The journal of a run: everything that it logs and, for each tracking server, how much has arrived there.

A run's directory holds journal.jsonl, one event a line, and journal.lock while a process writes.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from asr.errors import InputError

JOURNAL, LOCK = "journal.jsonl", "journal.lock"
LOCK_SECONDS = 10.0  # the loader processes of a killed run may hold its lock some seconds longer


class BusyError(InputError):
    """Another process holds the journal."""


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
    """Return whether the run in a directory has results and, which is written after them, the status FINISHED."""
    if not (directory / "results.json").exists() or not (directory / JOURNAL).exists():
        return False
    events = (entry.event for entry in read(directory / JOURNAL))
    statuses = [event.get("status") for event in events if event["kind"] in ("start", "end")]
    return statuses[-1:] == ["FINISHED"]


class Journal:
    """The journal of a directory, open in one process at a time.

    starts:     how often the run was started so far; start: the last event of this kind
    tags:       the last value of each tag
    last_steps: the highest step of each metric: a resumed run logs later ones only
    sent:       for each address, the id of the run there and how many bytes of the journal it has received

    raises: BusyError if another process still has it after wait_seconds (None: LOCK_SECONDS)
    """

    def __init__(self, directory: Path, wait_seconds: float | None = None) -> None:
        self.directory, self.path = directory, directory / JOURNAL
        self.starts, self.start = 0, dict[str, Any]()
        self.tags, self.last_steps, self.sent = dict[str, str](), dict[str, int](), dict[str, tuple[str, int]]()
        self._writing = threading.Lock()  # the training loop and the thread that sends both write
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(directory / LOCK)  # the system releases it when the process ends, even by kill -9
        try:
            self._lock.acquire(timeout=LOCK_SECONDS if wait_seconds is None else wait_seconds)
        except Timeout as error:
            raise BusyError(
                f"{directory} is being trained by another process: wait for its end or stop it; another output_dir "
                "trains beside it"
            ) from error
        # Unbuffered, so that a line that is written survives any end of the process.
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._size = 0
        try:
            for entry in read(self.path):
                self._remember(entry.event)
                self._size = entry.end
            self._file.truncate(self._size)  # drops an incomplete line
        except BaseException:
            self.close()
            raise

    def append(self, kind: str, **content: Any) -> None:
        """Write an event with the time in milliseconds. A full disk raises OSError and leaves the journal as it was."""
        event = {"kind": kind, "time": int(time.time() * 1000), **content}
        line = (json.dumps(event) + "\n").encode()
        with self._writing:
            if os.write(self._file.fileno(), line) < len(line):
                self._file.truncate(self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._size += len(line)
            self._remember(event)

    def pending(self, uri: str) -> Iterator[Entry]:
        """Yield the events that have not arrived at an address, once what was written also survives a power cut.

        Else MLflow could hold what a power cut takes from the journal.
        """
        os.fsync(self._file.fileno())
        _, position = self.sent.get(uri, ("", 0))
        return (entry for entry in read(self.path, position) if entry.event["kind"] != "sent")

    def close(self) -> None:
        """Release the lock. A run that was refused before anything was logged leaves no journal behind.

        A closed journal may be closed again.
        """
        if not self._file.closed and os.fstat(self._file.fileno()).st_size == 0:
            for path in (self.path, self.directory / LOCK):
                path.unlink(missing_ok=True)  # the directory may have another name by now
            with suppress(OSError):  # it holds other files
                self.directory.rmdir()
        self._file.close()
        self._lock.release()

    def _remember(self, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "start":
                self.starts, self.start = self.starts + 1, event
                self.tags |= event["tags"]
            case "tag":
                self.tags[event["key"]] = event["value"]
            case "metrics":
                for key in event["values"]:
                    self.last_steps[key] = max(event["step"], self.last_steps.get(key, event["step"]))
            case "sent":
                self.sent[event["uri"]] = event["run_id"], event["end"]
