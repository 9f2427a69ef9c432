"""Find the utterances of AN4, CMU's census corpus: spelled words, numbers and dates by 84 speakers, an hour in all."""

import re
from pathlib import Path

import numpy as np
import soundfile

from asr.corpora.index import Found, Rejected
from asr.errors import InputError

DEV_SPEAKERS = 7  # of 74 training speakers; the corpus has no dev part
RATE = 16_000  # of .raw files, which have no header
LINE = re.compile(r"(.*)\((\S+)\)")  # <s> HELLO </s> (an251-fash-b)


def find_utterances(root: Path) -> dict[str, tuple[list[Found], list[Rejected]]]:
    """Return the utterances and the unusable lines of train, dev and test; InputError if root holds no AN4.

    dev: the training speakers at equal distances in the order of their names
    """
    parts = {part: _read(root, part) for part in ("train", "test")}
    found, rejected = parts["train"]
    speakers = sorted({one.speaker for one in found if one.speaker})
    chosen = set(speakers[len(speakers) // DEV_SPEAKERS // 2 :: max(1, len(speakers) // DEV_SPEAKERS)][:DEV_SPEAKERS])
    return {
        "train": ([one for one in found if one.speaker not in chosen], rejected),
        "dev": ([one for one in found if one.speaker in chosen], []),
        "test": parts["test"],
    }


def _read(root: Path, part: str) -> tuple[list[Found], list[Rejected]]:
    lists = [root / "etc" / f"an4_{part}.{kind}" for kind in ("fileids", "transcription")]
    try:
        paths, lines = (path.read_text(encoding="utf-8", errors="replace").splitlines() for path in lists)
    except OSError as error:
        raise InputError(
            f"root={root} holds no AN4: {error.filename}: {error.strerror}; set root to the folder with AN4's etc/ and "
            "wav/, or download=true"
        ) from error
    texts = {match[2]: re.sub(r"</?s>|</?sil>", "", match[1]).strip() for match in map(LINE.search, lines) if match}
    found, rejected = [], []
    for path in filter(None, map(str.strip, paths)):
        id, where = Path(path).name, f"etc/{lists[0].name}"
        if not texts.get(id):
            rejected.append(Rejected(id, where, f"no transcript in {lists[1].name}"))
        elif ".." in Path(path).parts or (audio := _audio(root, f"wav/{path}")) is None:
            rejected.append(Rejected(id, where, f"no audio file wav/{path} with .sph, .wav, .raw or .flac"))
        else:
            found.append(Found(id, Path(path).parent.name, texts[id], audio))
    return found, rejected


def _audio(root: Path, stem: str) -> str | None:
    """Return the path of the audio file below root; one without a header, 16 bits big-endian, is copied into FLAC."""
    for suffix in (".sph", ".wav", ".flac"):
        if (root / f"{stem}{suffix}").is_file():
            return stem + suffix
    if not (raw := root / f"{stem}.raw").is_file():
        return None
    soundfile.write(root / f"{stem}.flac", np.fromfile(raw, ">i2").astype(np.int16), RATE)
    return stem + ".flac"
