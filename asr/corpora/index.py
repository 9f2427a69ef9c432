"""Measure the utterances that an importer found, and write their manifest and the list of those rejected."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from asr.corpora.audio_files import AudioError, measure
from asr.corpora.manifest import Utterance, Utterances, read_made_of, read_manifest, write_manifest
from asr.errors import InputError
from asr.files import written_whole

TOLERANCE_SECONDS = 0.1  # by which the length that a table states may differ from the audio's
Progress = Callable[[str, int, int], None]
"""Called with an action ("download", "unpack", "index"), how much of it is done, and of how much (0 if unknown)."""


class Found(NamedTuple):
    """An utterance before its audio was read.

    path:    relative to the root
    line:    of a table that names it
    seconds: the length that its table states
    """

    id: str
    speaker: str | None
    text: str
    path: str
    line: int | None = None
    seconds: float | None = None


class Rejected(NamedTuple):
    """An utterance that cannot be used; `path` is of the file at fault, relative to the root."""

    id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Index:
    """Where and how the utterances of parts are indexed.

    root, manifests: the folder of the corpus, and that of its manifests
    jobs:            threads
    verify_audio:    decode every file, to find silence, NaN and damage that header and last sample do not show
    """

    root: Path
    manifests: Path
    jobs: int
    verify_audio: bool = True

    def write(
        self, part: str, found: Sequence[Found], rejected: Iterable[Rejected] = (), progress: Progress | None = None
    ) -> "PartSummary":
        """Write manifests/PART.parquet, sorted by id, and PART.rejected.jsonl; keep them if nothing has changed.

        raises: InputError if no utterance can be used, or the files cannot be written
        """
        rejected = list(rejected)
        made_of = {"fingerprint": self._fingerprint(found, rejected), "verify_audio": self.verify_audio}
        if (summary := self._kept(part, made_of)) is not None:
            return summary
        usable = self._measure(found, rejected, progress)
        try:
            self._write(part, usable, rejected, made_of)
        except OSError as error:
            raise InputError(f"manifests={self.manifests}: {error}; set it to a folder that can be written") from error
        return PartSummary(part, read_manifest(str(self.root), str(self.manifests), part), len(rejected))

    def _kept(self, part: str, made_of: dict[str, Any]) -> "PartSummary | None":
        """Return the summary of the manifest that is there, or None if it was made of something else."""
        there = read_made_of(self.manifests / f"{part}.parquet")
        if there.get("fingerprint") != made_of["fingerprint"] or there.get("verify_audio") < made_of["verify_audio"]:
            return None
        try:
            return PartSummary(part, read_manifest(str(self.root), str(self.manifests), part), there["rejected"])
        except InputError:
            return None

    def _fingerprint(self, found: Sequence[Found], rejected: Sequence[Rejected]) -> str:
        """Return a digest that changes with any text, path, or size or time of an audio file."""
        digest = hashlib.blake2b(digest_size=16)
        for one in rejected:
            digest.update(repr(one).encode(errors="surrogateescape"))
        for utterance in found:
            digest.update(repr(utterance).encode(errors="surrogateescape"))
            with suppress(OSError):  # which is reported when it is read
                status = os.stat(self.root / utterance.path)
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        return digest.hexdigest()

    def _measure(self, found: Sequence[Found], rejected: list[Rejected], progress: Progress | None) -> list[Utterance]:
        """Return the utterances that can be used, sorted by id, and append the others to `rejected`."""
        usable: dict[str, Utterance] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            for done, (one, size) in enumerate(zip(found, pool.map(self._size, found), strict=True), 1):
                where = f"line {one.line}: " if one.line else ""
                if isinstance(size, AudioError):
                    rejected.append(Rejected(one.id, one.path, f"{where}{size}"))
                elif one.id in usable:
                    first = usable[one.id].path
                    rejected.append(Rejected(one.id, one.path, f"{where}its id belongs to {first} already"))
                else:
                    usable[one.id] = Utterance(one.id, one.text, one.path, *size, speaker=one.speaker)
                if progress:
                    progress("index", done, len(found))
        return [usable[id] for id in sorted(usable)]

    def _size(self, one: Found) -> tuple[int, int] | AudioError:
        try:
            samples, rate = measure(self.root / one.path, self.verify_audio)
        except AudioError as error:
            return error
        if one.seconds is not None and abs(samples / rate - one.seconds) > TOLERANCE_SECONDS:
            return AudioError(f"it lasts {samples / rate:.2f} s, its table says {one.seconds:g} s")
        return samples, rate

    def _write(self, part: str, usable: list[Utterance], rejected: list[Rejected], made_of: dict[str, Any]) -> None:
        self.manifests.mkdir(parents=True, exist_ok=True)
        manifest, reasons = self.manifests / f"{part}.parquet", self.manifests / f"{part}.rejected.jsonl"
        reasons.unlink(missing_ok=True)
        if rejected:
            with written_whole(reasons) as file:
                for one in sorted(rejected):  # JSON's own escape keeps the bytes of a file name that is not UTF-8
                    line = json.dumps(one._asdict(), ensure_ascii=False) + "\n"
                    file.write(line.encode(errors="backslashreplace"))
        if not usable:
            manifest.unlink(missing_ok=True)
            first = f"; the first: {rejected[0].path}: {rejected[0].reason}" if rejected else ""
            raise InputError(
                f"{part}: none of its {len(rejected):,} utterances can be used{first}; {reasons} lists them all"
            )
        write_manifest(self.manifests, part, usable, {**made_of, "rejected": len(rejected)})


@dataclass(frozen=True)
class PartSummary:
    """What the manifest of a part holds. rejected: how many could not be used."""

    part: str
    utterances: Utterances
    rejected: int

    @property
    def speakers(self) -> int:
        """Return the number of known speakers."""
        return len(self.utterances.table["speaker"].drop_null().unique())

    def foreign(self, alphabet: str, most: int = 5) -> list[tuple[str, int]]:
        """Return the most common characters that are not in the alphabet, and how often they occur."""
        counts: Counter[str] = Counter()
        for text in self.utterances.table["text"].to_pylist():
            counts.update(text.lower())
        return [(one, n) for one, n in counts.most_common() if one not in alphabet and not one.isspace()][:most]
