"""Download LibriSpeech's archives, resuming after lost connections, check them, and unpack them safely."""

import errno
import fcntl
import gzip
import hashlib
import os
import shutil
import ssl
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from asr.errors import InputError, first_line

Progress = Callable[[str, int, int], None]
"""Called with an action ("download", "unpack", "index"), how much of it is done, and of how much (0 if unknown)."""

TOP = "LibriSpeech"  # the folder that every archive holds
TIMEOUT_SECONDS = 60
TRIES = 4  # requests in a row that receive nothing new
PASSING_ERRORS = {408, 429, 500, 502, 503, 504}  # HTTP status codes that may be temporary
DEEPEST = 5  # LibriSpeech/PART/SPEAKER/CHAPTER/FILE
# The error codes that only the names in an archive can cause; others, such as that of a full disk, are not its fault.
# BadGzipFile and EOFError have no code.
ARCHIVE_ERRORS = {None, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ}


class Published(NamedTuple):
    """A published part: the MD5 of its PART.tar.gz, and its number of utterances."""

    md5: str
    utterances: int


LIBRISPEECH = {  # https://www.openslr.org/resources/12
    "train-clean-100": Published("2a93770f6d5c6c964bc36631d331a522", 28_539),
    "train-clean-360": Published("c0e676e450a7ff2f54aeade5171606fa", 104_014),
    "train-other-500": Published("d1a0fd59409feb2c614ce4d30c387708", 148_688),
    "dev-clean": Published("42e2234ba48799c1f50f24a7926300a1", 2_703),
    "dev-other": Published("c8d0bcc9cca99d4f8b62fcc847357931", 2_864),
    "test-clean": Published("32fa31d27d2e1cad72775fee3f4849a9", 2_620),
    "test-other": Published("fb5a50374b501bb3bac4815ee91d3135", 2_939),
}
MINI_LIBRISPEECH = {  # https://www.openslr.org/resources/31
    "train-clean-5": Published("5df7d4e78065366204ca6845bb08f490", 1_519),
    "dev-clean-2": Published("6d7ab67ac6a1d2c993d050e16d61080d", 1_089),
}
PARTS = LIBRISPEECH | MINI_LIBRISPEECH


def ensure_part(
    root: Path,
    part: str,
    base_url: str,
    archives_dir: Path,
    progress: Progress | None = None,
    keep_archives: bool = True,
) -> Path:
    """Return the folder root/PART, after downloading and unpacking it unless it exists.

    Several processes may call it at once.

    base_url:     the folder that holds PART.tar.gz, e.g. https://www.openslr.org/resources/12 or file:///disk
    archives_dir: the folder for PART.tar.gz; one that is there already is checked and used
    raises:       InputError if the part is unknown, cannot be downloaded or is corrupted
    """
    tree = root / part
    if tree.is_dir():
        return tree
    if (root / TOP / part).is_dir():
        raise InputError(f"root={root}: {part} must lie in it, but lies in {root / TOP}; set root={root / TOP}")
    if part not in PARTS:
        raise InputError(
            f"part {part!r} is not in {root} and cannot be downloaded; "
            f"the parts that can are {', '.join(PARTS)}; name one of them or put your own tree at {tree}"
        )
    archive = archives_dir / f"{part}.tar.gz"
    try:
        with _locked(archives_dir / f"{part}.lock"):
            if not tree.is_dir():  # else another process made it while this one waited
                fetch(f"{base_url.rstrip('/')}/{archive.name}", archive, PARTS[part].md5, progress)
                unpack(archive, root, progress)
            if not tree.is_dir():
                raise InputError(f"{archive} holds no {TOP}/{part}; delete it and put another archive there")
            if not keep_archives:
                archive.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{part} cannot be put into {root}: {error}; choose folders that can be written and have room"
        ) from error
    return tree


def fetch(url: str, path: Path, md5: str, progress: Progress | None = None, wait_seconds: float = 2.0) -> None:
    """Download `url` to `path`, by way of path.partial, which a later call resumes; check a file that is there.

    md5:          of the whole file, in hexadecimal digits
    wait_seconds: before the second try; doubled before each further one
    raises:       InputError if the file cannot be downloaded (what was received is kept) or is corrupted (deleted)
    """
    if path.exists():
        if (actual := _md5(path)) != md5:
            raise InputError(f"{path} is corrupted: its MD5 is {actual}, not {md5}; delete it and run again")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    _receive_all(url, partial, md5, progress, wait_seconds)
    if (actual := _md5(partial)) != md5:
        size = partial.stat().st_size
        partial.unlink()
        raise InputError(
            f"{url} gave a corrupted {path.name}: MD5 {actual} ({size:,} bytes), not {md5}; it was deleted; "
            "run again for a fresh download, and set base_url to another mirror if that fails as well"
        )
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)


def _receive_all(url: str, partial: Path, md5: str, progress: Progress | None, wait_seconds: float) -> None:
    """Request what is missing of `partial` until it is complete; give up after TRIES requests that received nothing."""
    most = _size(partial)
    failures = 0
    while True:
        try:
            return _receive(url, partial, progress)
        except HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            if error.code == 416 and partial.exists():  # asked for bytes beyond the end: all is there, or too much
                if _md5(partial) == md5:
                    return
                partial.unlink()
            elif error.code not in PASSING_ERRORS:
                raise InputError(_unavailable(url, partial, problem)) from error
        except (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            problem = str(getattr(error, "reason", None) or error or type(error).__name__)
        except ValueError as error:  # not a URL
            raise InputError(_unavailable(url, partial, str(error))) from error
        failures = 0 if _size(partial) > most else failures + 1
        most = max(most, _size(partial))
        if failures >= TRIES:
            raise InputError(_unavailable(url, partial, problem))
        time.sleep(wait_seconds * 2 ** max(0, failures - 1))


def _receive(url: str, partial: Path, progress: Progress | None) -> None:
    """Request what is missing of `partial` once; ConnectionError if the answer is shorter than it declares."""
    offset = _size(partial)
    headers = {"User-Agent": "asr-ctc-suite", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer:
        if offset and not _resumes(answer, offset):
            offset = 0
        length = answer.headers.get("Content-Length")
        total = offset + int(length) if length else 0
        free = shutil.disk_usage(partial.parent).free + (0 if offset else _size(partial))
        if total - offset > free:
            raise InputError(
                f"{url} needs {(total - offset) / 1e9:.1f} GB more, but {partial.parent} has {free / 1e9:.1f} GB free; "
                "free some or choose another folder for the archives"
            )
        with partial.open("ab" if offset else "wb") as file:
            while (not total or offset < total) and (block := answer.read1(1 << 20)):
                file.write(block)
                offset += len(block)
                if progress:
                    progress("download", offset, total)
    if offset < total:
        raise ConnectionError(f"the connection ended after {offset:,} of {total:,} bytes")


def _resumes(answer: HTTPResponse, offset: int) -> bool:
    """Return whether the answer starts at `offset`; a server without Range sends the whole file with status 200."""
    return answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _unavailable(url: str, partial: Path, problem: str) -> str:
    archive = partial.with_suffix("")
    kept = f" ({_size(partial):,} bytes have come; the next try goes on from there)" if _size(partial) else ""
    return (
        f"{url} cannot be downloaded: {problem}{kept}; run again later, set base_url to a mirror, "
        f"or put the archive at {archive} or its unpacked tree into root by hand"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process in at a time. The lock ends with its process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpack(archive: Path, root: Path, progress: Progress | None = None) -> None:
    """Unpack LibriSpeech/PART of a tar.gz archive to root/PART, and LibriSpeech/*.TXT to root unless they exist.

    Nothing has its final name before everything is unpacked; root/PART is never overwritten.
    raises: InputError if the archive is broken or unpacks to far more than its own size, if root/PART exists, or if a
            member is anything but a plain file or folder inside LibriSpeech
    """
    work = root / f".{archive.name}.unpacking"
    shutil.rmtree(work, ignore_errors=True)  # of a call that was interrupted
    work.mkdir(parents=True)
    try:
        with archive.open("rb") as file:
            _extract(file, archive, work, root, progress)
        os.sync()  # or a crash of the machine could leave empty files in a tree that looks complete
        for entry in sorted((work / TOP).iterdir()):
            if entry.is_dir() or not (root / entry.name).exists():
                entry.rename(root / entry.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Bounded(gzip.GzipFile):
    """A gzip file that raises InputError before it unpacks to far more than its own size.

    FLAC cannot be compressed further: the audio, 99 % of a part, is as large unpacked as packed, and tar's headers and
    the transcripts add a few per cent. Twice the size leaves room for that, and 1 MB more for an archive of a few short
    utterances. Every unpacked byte counts, since tarfile reads headers of any size into memory.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(fileobj=file)
        self._path, self._limit = path, 2 * path.stat().st_size + 1_000_000

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or self.tell() + size > self._limit:
            raise InputError(
                f"{self._path} unpacks to more than {self._limit / 1e6:.0f} MB, which no archive of speech of its size "
                "does, so nothing was unpacked; delete the archive and get it from a place you trust"
            )
        return super().read(size)


def _extract(file: IO[bytes], archive: Path, work: Path, root: Path, progress: Progress | None) -> None:
    size = archive.stat().st_size
    free = shutil.disk_usage(work).free
    if size > free:  # FLAC does not shrink, so the tree is as large as its archive
        raise InputError(f"{archive} needs {size / 1e9:.1f} GB in {root}, but {free / 1e9:.1f} GB are free; free some")

    def checked(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
        parts = PurePosixPath(member.name).parts
        plain = member.isdir() or (member.isfile() and not member.issparse() and member.size >= 0)
        if parts[:1] != (TOP,) or ".." in parts or len(parts) > DEEPEST or not plain:
            raise InputError(
                f"{archive}: member {member.name[:100]!r} is not a plain file or folder inside {TOP}/, at most "
                f"{DEEPEST} names deep, so nothing was unpacked; delete the archive and get it from a place you trust"
            )
        if (len(parts) > 2 or (len(parts) == 2 and member.isdir())) and (root / parts[1]).exists():
            raise InputError(f"{root / parts[1]} is there and is never overwritten; move it away to unpack {archive}")
        if progress:
            progress("unpack", file.tell(), size)
        return tarfile.data_filter(member, destination)

    try:
        with _Bounded(file, archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
            tar.extractall(work, filter=checked)
    except InputError:
        raise
    except Exception as error:  # tarfile checks little, so a hostile archive can make it raise anything
        if isinstance(error, OSError) and error.errno not in ARCHIVE_ERRORS:
            raise
        raise InputError(f"{archive} is broken: {first_line(error)[:200]}; delete it and download it again") from error
    if not (work / TOP).is_dir():
        raise InputError(f"{archive} holds no folder {TOP}; delete it and download it again")
