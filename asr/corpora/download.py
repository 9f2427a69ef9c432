"""Download the archive of a corpus, resuming after lost connections, check it, and unpack it safely."""

import errno
import fcntl
import gzip
import hashlib
import os
import shutil
import tarfile
import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from asr.corpora.index import Progress
from asr.errors import InputError, first_line

TIMEOUT_SECONDS = 60
TRIES = 4  # requests in a row that receive nothing new
TEMPORARY = {408, 429, 500, 502, 503, 504}  # HTTP status codes
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO}  # not the archive's fault


@dataclass(frozen=True)
class Archive:
    """A tar.gz archive and the folder `top` in it, whose content belongs into the root of a corpus.

    url:  http, https, or file:///folder/name
    path: where it is kept; one that is there already is checked and used
    md5:  in hexadecimal digits; None if it is not known
    """

    url: str
    path: Path
    md5: str | None
    top: str

    def ensure(self, root: Path, name: str, progress: Progress, keep: bool) -> None:
        """Download and unpack the archive unless root/NAME exists. Several processes may call it at once.

        keep:   the archive is kept
        raises: InputError if it cannot be downloaded, is corrupted, or does not hold top/NAME
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (root / name).exists():  # else another process made it while this one waited
                    self.fetch(progress)
                    self.unpack(root, progress)
            if not (root / name).exists():
                raise InputError(f"{self.path} holds no {self.top}/{name}; delete it and put another archive there")
            if not keep:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{name} cannot be put into {root}: {error}; choose folders that can be written and have room"
            ) from error

    def fetch(self, progress: Progress, wait_seconds: float = 2.0) -> None:
        """Download the archive by way of PATH.partial, which a later call resumes; check it.

        wait_seconds: before the second try; doubled before each further one
        raises: InputError if it cannot be downloaded (what was received is kept) or is corrupted
        """
        if self.path.exists():
            return self._check(self.path, "delete it and run again")
        partial = self.path.with_name(self.path.name + ".partial")
        failures = 0
        while failures < TRIES:
            before = _size(partial)
            try:
                self._receive(partial, progress)
                break
            except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
                code = error.code if isinstance(error, HTTPError) else None
                if code == 416:  # asked for bytes beyond the end: all is there, or too much, which its MD5 tells
                    break
                problem = f"HTTP {code}" if code else str(getattr(error, "reason", None) or error)
                lasting = isinstance(error, ValueError) or (code and code not in TEMPORARY)
                failures = TRIES if lasting else 1 if _size(partial) > before else failures + 1
            time.sleep(0 if failures == TRIES else wait_seconds * 2 ** (failures - 1))
        else:
            kept = f" ({_size(partial):,} bytes are kept; the next try resumes there)" if _size(partial) else ""
            raise InputError(
                f"{self.url} cannot be downloaded: {problem}{kept}; run again later, set base_url to a mirror, or put "
                f"the archive at {self.path} or its unpacked tree into root by hand"
            )
        try:
            self._check(partial, "run again for a fresh download, and set base_url to a mirror if that fails as well")
        except InputError:
            partial.unlink()
            raise
        partial.rename(self.path)

    def _receive(self, partial: Path, progress: Progress) -> None:
        """Request what is missing once; ConnectionError if the response is shorter than it declares."""
        offset = _size(partial)
        headers = {"User-Agent": "asr-ctc-suite", "Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={offset}-"} if offset else {}
        with urlopen(Request(self.url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            if offset and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                offset = 0  # a server without Range sends the whole file
            total = offset + int(response.headers.get("Content-Length") or 0)
            _need(total - offset, partial.parent, self.url)
            with partial.open("ab" if offset else "wb") as file:
                while block := response.read1(1 << 20):
                    file.write(block)
                    offset += len(block)
                    progress("download", offset, total)
        if offset < total:
            raise ConnectionError(f"the connection ended after {offset:,} of {total:,} bytes")

    def _check(self, path: Path, way_out: str) -> None:
        if self.md5 is None:
            return
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "md5").hexdigest()
        if actual != self.md5:
            raise InputError(f"{path} is corrupted: its MD5 is {actual}, not {self.md5}; {way_out}")

    def unpack(self, root: Path, progress: Progress) -> None:
        """Move what `top` holds into root, when all is unpacked; what is there already is never overwritten.

        raises: InputError if the archive is broken or unpacks to far more than its own size, or a member is anything
                but a plain file or folder inside `top`
        """
        size, work = _size(self.path), root / f".{self.path.name}.unpacking"
        shutil.rmtree(work, ignore_errors=True)  # of a call that was interrupted
        work.mkdir(parents=True)
        _need(size, root, str(self.path))  # audio does not shrink by much

        def checked(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
            if PurePosixPath(member.name).parts[:1] != (self.top,) or not (member.isfile() or member.isdir()):
                raise InputError(f"member {member.name[:100]!r} is not a plain file or folder inside {self.top}/")
            progress("unpack", file.tell(), size)
            return tarfile.data_filter(member, destination)

        try:
            with self.path.open("rb") as file, tarfile.open(fileobj=_Bounded(file, size), mode="r:") as tar:
                tar.extractall(work, filter=checked)
            os.sync()  # or a crash of the machine could leave empty files in a tree that looks complete
            for entry in sorted((work / self.top).iterdir()):
                if not (root / entry.name).exists():
                    entry.rename(root / entry.name)
        except Exception as error:  # tarfile checks little, so a hostile archive can make it raise anything
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            raise InputError(
                f"{self.path} cannot be unpacked, so nothing was: {first_line(error)[:200]}; delete it and get it from "
                "a place you trust"
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


class _Bounded(gzip.GzipFile):
    """A gzip file that raises InputError before it unpacks to far more than audio does.

    Every unpacked byte counts, since tarfile reads headers of any size into memory.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(fileobj=file)
        self._limit = 3 * size + 1_000_000

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or self.tell() + size > self._limit:
            raise InputError(f"it unpacks to more than {self._limit / 1e6:.0f} MB, three times its size")
        return super().read(size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _need(size: int, folder: Path, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{what} needs {size / 1e9:.1f} GB in {folder}, but {free / 1e9:.1f} GB are free; free some")
