"""Index a tree of LibriSpeech's layout: write lhotse cuts, and a list of what cannot be used and why."""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from asr.corpora.download import PARTS, Progress
from asr.corpora.librispeech import Chapter, Rejected, find_chapters, scan_chapter
from asr.corpora.utterance import INDEX_VERSION, IndexedCut, manifest_path, read_stamp, stamp_path
from asr.errors import InputError

SAMPLE_RATE = 16_000  # of LibriSpeech; audio of another rate is resampled when it is loaded


@dataclass(frozen=True)
class PartSummary:
    """A summary of the index of a part.

    rejected:  transcript lines and audio files that are left out; PART.rejected.jsonl says why
    resampled: utterances whose sample rate is not 16,000
    expected:  utterances of the part as published; None for a part that is not published
    """

    part: str
    utterances: int
    speakers: int
    hours: float
    rejected: int
    resampled: int
    expected: int | None

    @property
    def completeness(self) -> str:
        """The comparison with the published number of utterances; empty for a part that is not published."""
        if self.expected is None:
            return ""
        if self.utterances == self.expected:
            return "complete"
        return f"incomplete: {self.utterances:,} of {self.expected:,} utterances"


def index_part(
    root: Path,
    part: str,
    manifest_dir: Path,
    jobs: int,
    progress: Progress | None = None,
    verify_audio: bool = True,
) -> PartSummary:
    """Write manifest_dir/PART.jsonl.gz: lhotse cuts, sorted by id, of root/PART/SPEAKER/CHAPTER/{ID.flac,*.trans.txt}.

    What cannot be used is listed in PART.rejected.jsonl. An index that still fits the tree's folders is kept. All paths
    in these files are relative to the root, so that it can be moved.
    jobs:         threads
    verify_audio: decode every file, to find silence, NaN and damage that header and last sample do not show
    raises:       InputError if the tree does not exist or holds no usable utterance
    """
    if jobs < 1:
        raise InputError(f"jobs={jobs}: at least one thread must read; set it to 1 or more")
    root = Path(os.path.abspath(root))
    chapters = find_chapters(root, part)
    fingerprint = _fingerprint(root, chapters)
    if (summary := _fresh(manifest_dir, part, fingerprint, verify_audio)) is not None:
        return summary
    cuts: list[IndexedCut] = []
    rejected: list[Rejected] = []
    with ThreadPoolExecutor(jobs) as pool:
        scans = pool.map(partial(scan_chapter, root, verify_audio=verify_audio), chapters)
        for done, (usable, unusable) in enumerate(scans, 1):
            cuts += usable
            rejected += unusable
            if progress:
                progress("index", done, len(chapters))
    cuts, repeated = _without_repeats(cuts)
    rejected += repeated
    summary = _summarize(part, cuts, rejected)
    try:
        made_of = {"version": INDEX_VERSION, "fingerprint": fingerprint, "verify_audio": verify_audio}
        _write_index(manifest_dir, cuts, rejected, summary, made_of)
    except OSError as error:
        raise InputError(f"manifests={manifest_dir}: {error}; set it to a folder that can be written") from error
    return summary


def _summarize(part: str, cuts: list[IndexedCut], rejected: list[Rejected]) -> PartSummary:
    return PartSummary(
        part,
        len(cuts),
        len({cut.speaker for cut in cuts}),
        sum(cut.duration for cut in cuts) / 3600,
        len(rejected),
        sum(cut.sampling_rate != SAMPLE_RATE for cut in cuts),
        PARTS[part].utterances if part in PARTS else None,
    )


def _fingerprint(root: Path, chapters: list[Chapter]) -> str:
    """Return a digest that changes when a file is added, removed or renamed, or a transcript is rewritten.

    It does not change when audio is changed in place.
    """
    digest = hashlib.sha256(f"{INDEX_VERSION}".encode())
    for chapter in chapters:
        folder = root / chapter.folder
        digest.update(os.fsencode(f"\n{chapter.folder} {folder.stat().st_mtime_ns} {len(chapter.audio)}"))
        for name in chapter.transcripts:
            status = (folder / name).stat()
            digest.update(os.fsencode(f" {name} {status.st_mtime_ns} {status.st_size}"))
    return digest.hexdigest()


def _fresh(manifest_dir: Path, part: str, fingerprint: str, verify_audio: bool) -> PartSummary | None:
    """Return the summary of the existing index, or None if it was made of another state of the tree."""
    stamp = read_stamp(manifest_dir, part)
    try:
        size = manifest_path(manifest_dir, part).stat().st_size
        fits = stamp["fingerprint"] == fingerprint and stamp["manifest_bytes"] == size
        return PartSummary(**stamp["summary"]) if fits and stamp["verify_audio"] >= verify_audio else None
    except (OSError, KeyError, TypeError):
        return None


def _without_repeats(cuts: list[IndexedCut]) -> tuple[list[IndexedCut], list[Rejected]]:
    """Sort cuts by id, and reject all but the first of those with the same id, in the order of their folders."""
    kept: list[IndexedCut] = []
    repeated = []
    for cut in sorted(cuts, key=lambda cut: cut.id):  # stable: of the same id, the first in the order of the folders
        if kept and kept[-1].id == cut.id:
            repeated.append(Rejected(cut.id, cut.path, f"its id belongs to {kept[-1].path} already"))
        else:
            kept.append(cut)
    return kept, repeated


def _write_index(
    manifest_dir: Path,
    cuts: list[IndexedCut],
    rejected: list[Rejected],
    summary: PartSummary,
    made_of: Mapping[str, Any],
) -> None:
    """Write the files of an index. The stamp is deleted first and written last: without it, an index is unfinished."""
    manifest_dir.mkdir(parents=True, exist_ok=True)
    stamp = stamp_path(manifest_dir, summary.part)
    stamp.unlink(missing_ok=True)
    reasons = manifest_dir / f"{summary.part}.rejected.jsonl"
    manifest = manifest_path(manifest_dir, summary.part)
    reasons.unlink(missing_ok=True)
    if rejected:
        with _written_whole(reasons) as file:
            _write_lines(file, (one._asdict() for one in sorted(rejected)))
    if not cuts:
        manifest.unlink(missing_ok=True)
        raise InputError(
            f"{summary.part}: none of its {len(rejected):,} utterances can be used; "
            f"the first: {rejected[0].path}: {rejected[0].reason}; {reasons} lists them all"
        )
    with _written_whole(manifest) as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as zipped:  # same cuts, same bytes
        _write_lines(zipped, (cut.to_dict() for cut in cuts))
    with _written_whole(stamp) as file:
        _write_lines(file, [{**made_of, "manifest_bytes": manifest.stat().st_size, "summary": asdict(summary)}])


def _write_lines(file: Any, records: Iterable[Mapping[str, Any]]) -> None:
    for record in records:  # JSON's own escape keeps the bytes of a file name that is not UTF-8
        file.write(json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")


@contextmanager
def _written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets its name when all of it is on the disk."""
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial_path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)
