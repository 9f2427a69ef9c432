"""Read a tree of LibriSpeech's layout: PART/SPEAKER/CHAPTER/{ID.flac, SPEAKER-CHAPTER.trans.txt}."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from asr.corpora.audio_files import hides_samples
from asr.corpora.download import TOP
from asr.corpora.utterance import IndexedCut, rate_problem
from asr.errors import InputError


class Rejected(NamedTuple):
    """An utterance that cannot be used; `path` is of the file at fault, relative to the root."""

    id: str
    path: str
    reason: str


class Chapter(NamedTuple):
    """A folder with audio or transcripts, relative to the root, and the sorted names of these files."""

    folder: str
    speaker: str
    audio: list[str]
    transcripts: list[str]


class _UnusableError(Exception):
    """Raised for an audio file that cannot be used, with the reason."""


def find_chapters(root: Path, part: str) -> list[Chapter]:
    """Return the chapters of a part, sorted by folder; InputError if there is no such part."""
    tree = root / part
    if not tree.is_dir():
        if (root / TOP / part).is_dir():
            raise InputError(f"root={root}: {part} must lie in it, but lies in {root / TOP}; set root={root / TOP}")
        there = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else None
        found = "does not exist" if there is None else f"has no folder {part}, only {', '.join(there) or 'nothing'}"
        raise InputError(
            f"root={root} {found}; set root to the folder that holds the parts, or let prepare download it"
        )
    chapters = []
    for folder, _, names in os.walk(tree, onerror=_raise_unreadable, followlinks=True):
        audio = sorted(name for name in names if name.endswith(".flac"))
        transcripts = sorted(name for name in names if name.endswith(".trans.txt"))
        if audio or transcripts:
            speaker = (*Path(folder).relative_to(tree).parts, part)[0]
            chapters.append(Chapter(os.path.relpath(folder, root), speaker, audio, transcripts))
    if not any(chapter.transcripts for chapter in chapters):
        raise InputError(
            f"{tree} holds no transcript; it must be laid out as SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with lines "
            "'ID TEXT' and ID.flac beside; unpack it again or name another part"
        )
    return sorted(chapters, key=lambda chapter: Path(chapter.folder).parts)


def _raise_unreadable(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be read: {error.strerror}; give yourself the right to read it"
    ) from error


def scan_chapter(root: Path, chapter: Chapter, verify_audio: bool) -> tuple[list[IndexedCut], list[Rejected]]:
    """Return the usable utterances of a chapter, and those that are rejected."""
    texts, rejected = _read_transcripts(root, chapter)
    claimed = {one.id for one in rejected} | texts.keys()
    for name in chapter.audio:
        if name.removesuffix(".flac") not in claimed:
            path = os.path.join(chapter.folder, name)
            rejected.append(Rejected(name.removesuffix(".flac"), path, "audio file without a transcript line"))
    cuts = []
    for id, text in texts.items():
        path = os.path.join(chapter.folder, f"{id}.flac")
        try:
            samples, rate = _measure(root / path, verify_audio)
        except _UnusableError as error:
            rejected.append(Rejected(id, path, str(error)))
            continue
        cuts.append(IndexedCut(id, text, chapter.speaker, chapter.folder, rate, samples))
    return cuts, rejected


def _read_transcripts(root: Path, chapter: Chapter) -> tuple[dict[str, str], list[Rejected]]:
    """Return texts by utterance id, for the lines with a text and an audio file, and the other lines as rejected."""
    texts: dict[str, str] = {}
    rejected = []
    audio = set(chapter.audio)
    for name in chapter.transcripts:
        path = os.path.join(chapter.folder, name)
        try:
            lines = (root / path).read_bytes().decode("utf-8-sig", errors="replace").split("\n")
        except OSError as error:
            rejected.append(
                Rejected(name.removesuffix(".trans.txt"), path, f"transcript cannot be read: {error.strerror}")
            )
            continue
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            id, text = (*line.split(maxsplit=1), "")[:2]
            reason = ""
            if f"{id}.flac" not in audio:
                stem = name.removesuffix(".trans.txt")
                is_id = id.startswith(f"{stem}-")
                reason = f"no audio file {id}.flac" if is_id else f"malformed: it must begin with an id {stem}-NUMBER"
            elif not text:
                reason = "empty transcript"
            elif "\ufffd" in text:
                reason = "its text is not UTF-8"
            elif id in texts:
                reason = "its id stands in an earlier line already"
            if reason:
                rejected.append(Rejected(id, path, f"line {number}: {reason}"))
            else:
                texts[id] = text.rstrip()
    return texts, rejected


def _measure(path: Path, verify_audio: bool) -> tuple[int, int]:
    """Return the number of samples of an audio file and its sample rate; _UnusableError if it cannot be used."""
    try:
        with soundfile.SoundFile(path) as audio:
            if audio.channels != 1:
                raise _UnusableError(
                    f"{audio.channels} channels, must be one; mix down: ffmpeg -i IN.flac -ac 1 OUT.flac"
                )
            if problem := rate_problem(audio.samplerate):
                raise _UnusableError(problem)
            if audio.frames == 0:
                raise _UnusableError("no samples")
            audio.seek(audio.frames - 1)  # fails if the end of the file is cut off, and costs 0.1 ms
            if len(audio.read(1)) != 1:
                raise _UnusableError("cut off: its last sample is missing")
            if verify_audio:
                audio.seek(0)
                _verify(audio)
                if hides_samples(path):
                    raise _UnusableError(f"more samples than the {audio.frames:,} that its header declares")
            return audio.frames, audio.samplerate
    except soundfile.LibsndfileError as error:
        raise _UnusableError(f"unreadable or cut off ({error.error_string})") from error
    except OSError as error:
        raise _UnusableError(f"unreadable or cut off ({error.strerror})") from error


def _verify(audio: soundfile.SoundFile) -> None:
    samples = audio.read(dtype="float32")
    if len(samples) != audio.frames:
        raise _UnusableError(f"cut off or damaged: {len(samples):,} of {audio.frames:,} samples can be decoded")
    if not np.isfinite(samples).all():
        raise _UnusableError("samples that are not finite")
    if not samples.any():
        raise _UnusableError("nothing but silence")
