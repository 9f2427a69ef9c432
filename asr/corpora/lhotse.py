"""Find the utterances of a lhotse CutSet; what is not a whole mono file below the root is written there as FLAC."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import soundfile

from asr.corpora.index import Found, Rejected
from asr.errors import InputError, first_line


def find_utterances(cuts: Path, root: Path) -> tuple[list[Found], list[Rejected]]:
    """Return the utterances of a CutSet's file, one for each supervision, and the cuts that cannot be used.

    raises: InputError if lhotse is not installed, or the file holds no cuts
    """
    try:
        from lhotse import CutSet
        from lhotse.cut import Cut
    except ImportError as error:
        raise InputError("lhotse is not installed; it is an extra: pip install 'asr-ctc-suite[lhotse]'") from error
    found: list[Found] = []
    rejected: list[Rejected] = []
    folder = Path(re.sub(r"\W", "_", cuts.name.split(".")[0]))
    try:
        for number, cut in enumerate(CutSet.from_file(cuts), 1):
            if not isinstance(cut, Cut):
                raise InputError(f"it holds items of type {type(cut).__name__}")
            try:
                for piece in [cut] if len(cut.supervisions) == 1 else cut.trim_to_supervisions(keep_overlapping=False):
                    found.append(_found(piece, folder, root))
            except Exception as error:  # lhotse reads fields of any type, and fails later
                rejected.append(Rejected(str(cut.id), cuts.name, f"cut {number}: {first_line(error)}"))
            if not cut.supervisions:
                rejected.append(Rejected(str(cut.id), cuts.name, f"cut {number}: no supervision"))
    except Exception as error:  # lhotse, json, yaml and gzip raise anything
        raise InputError(
            f"cuts={cuts} cannot be read as a lhotse CutSet: {first_line(error)}; write it anew with CutSet.to_file"
        ) from error
    if not found and not rejected:
        raise InputError(f"cuts={cuts} holds no cut; write it anew with CutSet.to_file")
    return found, rejected


def _found(cut: Any, folder: Path, root: Path) -> Found:
    """Return a cut with one supervision as an utterance."""
    (supervision,) = cut.supervisions
    if not isinstance(supervision.text, str) or not isinstance(cut.id, str):
        raise ValueError("its id and the text of its supervision must be strings")
    return Found(cut.id, supervision.speaker, supervision.text, _whole_file(cut, root) or _written(cut, folder, root))


def _whole_file(cut: Any, root: Path) -> str | None:
    """Return the path of the audio, relative to the root, if the cut is a whole mono file below it."""
    recording = cut.recording if cut.has_recording else None
    if recording is None or len(recording.sources) != 1 or recording.sources[0].type != "file" or recording.transforms:
        return None
    path = os.path.abspath(recording.sources[0].source)
    whole = cut.start == 0 and cut.num_samples == recording.num_samples and recording.num_channels == 1
    below = path.startswith(os.path.join(root, ""))
    if not (whole and below and soundfile.info(path).frames == recording.num_samples):
        return None
    return os.path.relpath(path, root)


def _written(cut: Any, folder: Path, root: Path) -> str:
    """Write the audio of a cut as FLAC, and return its path relative to the root."""
    samples = cut.load_audio()
    if samples is None or len(samples) != 1:
        raise ValueError(f"it has {0 if samples is None else len(samples)} channels, must be one; mix it down")
    # Ids may hold any character, and file names may not.
    path = folder / f"{hashlib.sha256(cut.id.encode()).hexdigest()[:24]}.flac"
    (root / folder).mkdir(parents=True, exist_ok=True)
    soundfile.write(root / path, samples[0], cut.sampling_rate, subtype="PCM_24")
    return str(path)
