"""Find the utterances of AN4, CMU's census corpus: spelled words, numbers and dates by 84 speakers, an hour in all."""

import re
from pathlib import Path

import numpy as np
import soundfile

from asr.corpora.index import Found, Rejected
from asr.errors import InputError
from asr.files import written_whole

DEV_SPEAKERS = slice(5, None, 10)  # 7 of the 74 training speakers, in the order of their names: AN4 has no dev part
RATE = 16_000  # of .raw files, which have no header
LINE = re.compile(r"(.*)\((\S+)\)")  # <s> HELLO </s> (an251-fash-b)


def find_utterances(root: Path) -> dict[str, tuple[list[Found], list[Rejected]]]:
    """Return the utterances and the unusable lines of train, dev and test; InputError if root holds no AN4."""
    found, rejected = _read(root, "train")
    dev = sorted({one.speaker for one in found if one.speaker})[DEV_SPEAKERS]
    return {
        "train": ([one for one in found if one.speaker not in dev], rejected),
        "dev": ([one for one in found if one.speaker in dev], []),
        "test": _read(root, "test"),
    }


def _read(root: Path, part: str) -> tuple[list[Found], list[Rejected]]:
    fileids, transcription = (f"etc/an4_{part}.{kind}" for kind in ("fileids", "transcription"))
    try:
        lines = (root / transcription).read_text(encoding="utf-8", errors="replace").splitlines()
        stems = (root / fileids).read_text(encoding="utf-8", errors="replace").split()
    except OSError as error:
        raise InputError(
            f"root={root} holds no AN4: {error.filename}: {error.strerror}; set root to the folder with AN4's etc/ and "
            "wav/, or download=true"
        ) from error
    matches = filter(None, map(LINE.search, lines))
    texts = {match[2]: " ".join(re.sub(r"</?s(il)?>", " ", match[1]).split()) for match in matches}
    found, rejected = [], []
    for stem in stems:
        id = Path(stem).name
        if not texts.get(id):
            rejected.append(Rejected(id, fileids, f"no transcript in {transcription}"))
        elif ".." in Path(stem).parts or (path := _audio(root, f"wav/{stem}")) is None:
            rejected.append(Rejected(id, fileids, f"no audio file wav/{stem} with .sph, .wav, .flac or .raw"))
        else:
            found.append(Found(id, Path(stem).parent.name, texts[id], path))
    return found, rejected


def _audio(root: Path, stem: str) -> str | None:
    """Return the path of the audio file below root; a copy as FLAC of 16-bit big-endian samples without a header."""
    for suffix in (".sph", ".wav", ".flac"):
        if (root / f"{stem}{suffix}").is_file():
            return stem + suffix
    if not (raw := root / f"{stem}.raw").is_file():
        return None
    try:
        with written_whole(root / f"{stem}.flac") as file:
            soundfile.write(file, np.fromfile(raw, ">i2").astype(np.int16), RATE, format="FLAC")
    except OSError as error:
        raise InputError(
            f"{raw} cannot be copied to a .flac beside it: {error}; copy the tree where you can"
        ) from error
    return stem + ".flac"
