"""Find the utterances of a lhotse CutSet; what is not a whole mono file below the root is written there as FLAC."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from asr.corpora.index import Found, Rejected
from asr.errors import InputError, first_line
from asr.files import written_whole


def find_utterances(file: Path, root: Path) -> tuple[list[Found], list[Rejected]]:
    """Return the utterances of a CutSet's file, one for each supervision, and the cuts that cannot be used.

    raises: InputError if lhotse is not installed, or the file cannot be read as a CutSet
    """
    try:
        from lhotse import CutSet
        from lhotse.cut import Cut
    except ImportError as error:
        raise InputError("lhotse is not installed; it is an extra: pip install 'asr-ctc-suite[lhotse]'") from error
    found: list[Found] = []
    rejected: list[Rejected] = []
    number = 0
    try:
        for number, cut in enumerate(CutSet.from_file(file), 1):
            if not isinstance(cut, Cut):
                raise ValueError(f"item {number} is a {type(cut).__name__} and no cut")
            for piece in _pieces(cut):
                one = _found(piece, root, re.sub(r"\W", "_", file.name.split(".")[0]))
                if isinstance(one, str):
                    rejected.append(Rejected(str(piece.id), file.name, f"cut {number}: {one}"))
                else:
                    found.append(one)
    except Exception as error:  # lhotse, json, yaml and gzip raise anything
        raise InputError(
            f"cuts={file} cannot be read as a lhotse CutSet beyond its cut {number}: {first_line(error)}; write it "
            "anew with CutSet.to_file"
        ) from error
    return found, rejected


def _pieces(cut: Any) -> list[Any]:
    """Return a cut for each supervision, or the cut itself if it has one, none, or some that cannot be cut out."""
    try:
        return [cut] if len(cut.supervisions) < 2 else list(cut.trim_to_supervisions(keep_overlapping=False))
    except Exception:  # lhotse checks times only where it computes with them
        return [cut]


def _found(cut: Any, root: Path, folder: str) -> Found | str:
    """Return a cut with one supervision as an utterance, or why it is none."""
    if len(cut.supervisions) != 1:
        return f"{len(cut.supervisions)} supervisions that cannot be cut out" if cut.supervisions else "no supervision"
    (supervision,) = cut.supervisions
    if not isinstance(supervision.text, str) or not supervision.text.strip():
        return "no text"
    if not cut.has_recording:
        return "no recording"
    tracks = [track.cut for track in getattr(cut, "tracks", [])] or [cut]
    recordings = filter(None, (getattr(track, "recording", None) for track in tracks))
    if others := {source.type for recording in recordings for source in recording.sources} - {"file", "memory"}:
        return (
            f"audio of type {', '.join(sorted(others))}, must be a file: lhotse would run a command or open an address"
        )
    try:
        path = _whole_file(cut, root) or _written(cut, root, folder)
    except Exception as error:  # lhotse reads fields of any type, and fails later
        return first_line(error)
    speaker = None if supervision.speaker is None else str(supervision.speaker)
    return Found(str(cut.id), speaker, supervision.text.strip(), path)


def _whole_file(cut: Any, root: Path) -> str | None:
    """Return the path of the audio, relative to the root, if the cut is a whole mono file below it."""
    recording = getattr(cut, "recording", None)  # a mix of cuts has several
    if recording is None or [source.type for source in recording.sources] != ["file"] or recording.transforms:
        return None
    path = os.path.abspath(recording.sources[0].source)
    whole = cut.start == 0 and cut.num_samples == recording.num_samples and recording.num_channels == 1
    if not (whole and path.startswith(os.path.join(root, ""))):
        return None
    return os.path.relpath(path, root) if soundfile.info(path).frames == cut.num_samples else None


def _written(cut: Any, root: Path, folder: str) -> str:
    """Write the audio of a cut as FLAC unless that was done before, and return its path relative to the root."""
    if cut.num_channels != 1:
        raise ValueError(f"{cut.num_channels} channels, must be one; mix it down or give each channel a cut")
    # Ids may hold any character, which file names may not, and repeat.
    path = f"{folder}/{hashlib.sha256(repr(cut.to_dict()).encode()).hexdigest()[:24]}.flac"
    if not (root / path).exists():
        samples = cut.load_audio()[0]
        if not np.isfinite(samples).all():  # integers would hide it
            raise ValueError("samples that are not finite")
        (root / folder).mkdir(exist_ok=True)
        with written_whole(root / path) as file:
            soundfile.write(file, samples, cut.sampling_rate, format="FLAC", subtype="PCM_24")
    return path
