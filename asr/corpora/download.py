"""Download a file, resuming after lost connections, and check it; unpack the archive of a corpus safely."""

import fcntl
import hashlib
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from os import sync
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from asr.corpora.index import Progress
from asr.errors import InputError, first_line

TIMEOUT_SECONDS = 60
TRIES = 4  # requests in a row that receive nothing new
TEMPORARY = {408, 429, 500, 502, 503, 504}  # HTTP status codes
DEEPEST = 8  # folders in an archive, since shutil.rmtree fails a thousand folders deep


@dataclass(frozen=True)
class Archive:
    """A tar.gz archive and the folder `top` in it, whose content belongs into the root of a corpus; or any other file.

    url:  http, https, or file:///folder/name
    path: where it is kept; one that is there already is checked, used and never deleted
    md5:  in hexadecimal digits; None if it is not known
    top:  empty for a file that is not unpacked
    """

    url: str
    path: Path
    md5: str | None
    top: str = ""

    def ensure(self, root: Path, name: str, progress: Progress, keep: bool) -> None:
        """Download and unpack the archive unless root/NAME exists. Several processes may call it at once.

        keep:   keep an archive that was downloaded
        raises: InputError if it cannot be downloaded, is corrupted, or does not hold top/NAME
        """
        try:
            with self._locked():
                if (root / name).exists():  # another process made it while this one waited
                    return
                downloaded = self.fetch(progress)
                self.unpack(root, progress)
                if not (root / name).exists():
                    raise InputError(f"{self.path} holds no {self.top}/{name}; delete it and put another archive there")
                if downloaded and not keep:
                    self.path.unlink()
        except OSError as error:
            raise InputError(
                f"{name} cannot be put into {root}: {error}; choose folders that can be written and have room"
            ) from error

    def ensure_file(self, progress: Progress) -> None:
        """Download the file unless it is there. Several processes may call it at once.

        raises: InputError if it cannot be downloaded or is corrupted
        """
        with self._locked():
            self.fetch(progress)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def fetch(self, progress: Progress, wait_seconds: float = 2.0) -> bool:
        """Download the archive by way of PATH.partial, which a later call resumes; return False if it was there.

        wait_seconds: before the second try; doubled before each further one
        raises: InputError if it cannot be downloaded (what was received is kept) or is corrupted
        """
        if download := not self.path.exists():
            partial = self.path.with_name(self.path.name + ".partial")
            self._receive_all(partial, progress, wait_seconds)
            partial.rename(self.path)
        with self.path.open("rb") as file:
            actual = hashlib.file_digest(file, "md5").hexdigest()
        if self.md5 not in (None, actual):
            if download:
                self.path.unlink()
            raise InputError(
                f"{self.path} is corrupted: its MD5 is {actual}, not {self.md5}; "
                f"{'' if download else 'delete it and '}run again, with base_url set to a mirror if it fails again"
            )
        return download

    def _receive_all(self, partial: Path, progress: Progress, wait_seconds: float) -> None:
        most, failures = _size(partial), 0
        while True:
            try:
                return self._receive(partial, progress)
            except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
                code = error.code if isinstance(error, HTTPError) else None
                if code == 416:  # asked for bytes beyond the end: all is there, or too much, which its MD5 tells
                    return
                failures = failures + 1 if _size(partial) <= most else 1
                most = max(most, _size(partial))
                if failures == TRIES or isinstance(error, ValueError) or (code and code not in TEMPORARY):
                    problem = f"HTTP {code}" if code else str(getattr(error, "reason", None) or error)
                    raise InputError(
                        f"{self.url} cannot be downloaded: {problem} ({_size(partial):,} bytes are kept); run again "
                        f"later to resume, set base_url to a mirror, or put the file at {self.path} "
                        f"{'or its unpacked tree into root ' if self.top else ''}by hand"
                    ) from error
            time.sleep(wait_seconds * 2 ** (failures - 1))

    def _receive(self, partial: Path, progress: Progress) -> None:
        """Request what is missing once; ConnectionError if the response is shorter than it declares."""
        offset = _size(partial)
        headers = {"User-Agent": "asr-ctc-suite"} | ({"Range": f"bytes={offset}-"} if offset else {})
        with urlopen(Request(self.url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            if offset and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                offset = 0  # a server without Range sends the whole file
            total = offset + int(response.headers.get("Content-Length") or 0)
            free = shutil.disk_usage(partial.parent).free
            if total - offset > free:
                raise InputError(
                    f"{self.url} has {(total - offset) / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in "
                    f"{partial.parent}; free some, or choose another folder for the archives"
                )
            with partial.open("ab" if offset else "wb") as file:
                while block := response.read1(1 << 20):
                    file.write(block)
                    offset += len(block)
                    progress("download", offset, total)
        if offset < total:
            raise ConnectionError(f"the connection ended after {offset:,} of {total:,} bytes")

    def unpack(self, root: Path, progress: Progress) -> None:
        """Move what `top` holds into root, when all is unpacked; what is there already is never overwritten.

        raises: InputError if the archive is broken or unpacks to far more than its own size, or a member is anything
                but a plain file or folder inside `top`
        """
        size, work = _size(self.path), root / f".{self.path.name}.unpacking"
        shutil.rmtree(work, ignore_errors=True)  # of a call that was interrupted
        work.mkdir(parents=True)

        def checked(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
            parts = PurePosixPath(member.name).parts
            if parts[:1] != (self.top,) or len(parts) > DEEPEST or not (member.isdir() or member.isreg()):
                raise InputError(f"{member.name[-100:]!r} is not a plain file or folder inside {self.top}/")
            if member.size < 0 or member.offset_data + member.size > 3 * size + 1_000_000:
                raise InputError("it unpacks to more than three times its size")
            progress("unpack", file.tell(), size)
            return tarfile.data_filter(member, destination)

        try:
            with self.path.open("rb") as file, tarfile.open(fileobj=file, mode="r:gz") as tar:
                tar.extractall(work, filter=checked)
            sync()  # or a crash of the machine could leave empty files in a tree that looks complete
            for entry in sorted((work / self.top).iterdir()):
                if not (root / entry.name).exists():
                    entry.rename(root / entry.name)
        except Exception as error:  # tarfile checks little, so a hostile archive can make it raise anything
            raise InputError(
                f"{self.path} cannot be unpacked, so nothing was: {first_line(error)[:200]}; unless {root} is full or "
                "closed to you, delete the archive and get it from a place you trust"
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
