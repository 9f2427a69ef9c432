"""Find the utterances of a tree of LibriSpeech's layout: PART/SPEAKER/CHAPTER/{ID.flac, SPEAKER-CHAPTER.trans.txt}."""

import os
from pathlib import Path
from typing import NamedTuple

from asr.corpora.index import Found, Rejected
from asr.errors import InputError

TOP = "LibriSpeech"  # the folder that every archive holds


class Published(NamedTuple):
    """A published part: the MD5 of its PART.tar.gz, and its number of utterances."""

    md5: str
    utterances: int


PARTS = {
    # https://www.openslr.org/resources/12
    "train-clean-100": Published("2a93770f6d5c6c964bc36631d331a522", 28_539),
    "train-clean-360": Published("c0e676e450a7ff2f54aeade5171606fa", 104_014),
    "train-other-500": Published("d1a0fd59409feb2c614ce4d30c387708", 148_688),
    "dev-clean": Published("42e2234ba48799c1f50f24a7926300a1", 2_703),
    "dev-other": Published("c8d0bcc9cca99d4f8b62fcc847357931", 2_864),
    "test-clean": Published("32fa31d27d2e1cad72775fee3f4849a9", 2_620),
    "test-other": Published("fb5a50374b501bb3bac4815ee91d3135", 2_939),
    # Mini LibriSpeech: https://www.openslr.org/resources/31
    "train-clean-5": Published("5df7d4e78065366204ca6845bb08f490", 1_519),
    "dev-clean-2": Published("6d7ab67ac6a1d2c993d050e16d61080d", 1_089),
}


class Chapter(NamedTuple):
    """A folder with audio or transcripts, relative to the root, and the sorted names of these files."""

    folder: str
    speaker: str
    audio: list[str]
    transcripts: list[str]


def find_chapters(root: Path, part: str) -> list[Chapter]:
    """Return the chapters of a part, sorted by folder; InputError if there is no such part."""
    tree = root / part
    if not tree.is_dir():
        if (root / TOP / part).is_dir():
            raise InputError(f"root={root}: {part} must lie in it, but lies in {root / TOP}; set root={root / TOP}")
        there = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else None
        found = "does not exist" if there is None else f"has no folder {part}, only {', '.join(there) or 'nothing'}"
        raise InputError(
            f"root={root} {found}; set root to the folder that holds {part}, or download=true for a part that can be "
            f"downloaded: {', '.join(PARTS)}"
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


def find_utterances(root: Path, part: str) -> tuple[list[Found], list[Rejected]]:
    """Return the utterances of root/PART/SPEAKER/CHAPTER/{ID.flac, SPEAKER-CHAPTER.trans.txt}, and unusable lines."""
    found: list[Found] = []
    rejected: list[Rejected] = []
    for chapter in find_chapters(root, part):
        texts, unusable = _read_transcripts(root, chapter)
        claimed = {one.id for one in unusable} | texts.keys()
        for name in chapter.audio:
            if (id := name.removesuffix(".flac")) not in claimed:
                path = os.path.join(chapter.folder, name)
                unusable.append(Rejected(id, path, "audio file without a transcript line"))
        found += [Found(id, chapter.speaker, text, f"{chapter.folder}/{id}.flac") for id, text in texts.items()]
        rejected += unusable
    return found, rejected


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
