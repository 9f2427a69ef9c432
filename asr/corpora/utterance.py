"""The cuts of an index, which take a quarter of the memory of lhotse's cuts and are read five times as fast."""

import json
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from asr.settings import SAMPLE_RATES

INDEX_VERSION = 2  # of the format of an index; one of another version must be made anew by asr.prepare
CHARACTERS, NUMBER = r'([^"\\\x00-\x1f]*)', r"([1-9]\d{0,9})"
TEXT = f'"{CHARACTERS}"'
# A line as `to_dict` writes it. A match also checks it: the fields, their types, and that the three ids are the same.
LINE = re.compile(
    rf'{{"id": {TEXT}, "start": 0\.0, "duration": ((?:0|[1-9]\d*)\.\d+), "channel": 0, "supervisions": \['
    rf'{{"id": "\1", "recording_id": "\1", "start": 0\.0, "duration": \2, "channel": 0, "text": {TEXT}, '
    rf'"speaker": {TEXT}}}\], "recording": {{"id": "\1", "sources": \['
    rf'{{"type": "file", "channels": \[0\], "source": "{CHARACTERS}/\1\.flac"}}\], "sampling_rate": {NUMBER}, '
    rf'"num_samples": {NUMBER}, "duration": \2, "channel_ids": \[0\]}}, "type": "MonoCut"}}\n',
    re.ASCII,
)
shared_int = cache(int)


def manifest_path(manifest_dir: Path, part: str) -> Path:
    """Return the path of the index of a part."""
    return manifest_dir / f"{part}.jsonl.gz"


def stamp_path(manifest_dir: Path, part: str) -> Path:
    """Return the path of the file that says from what the index of a part was made."""
    return manifest_dir / f"{part}.stamp.json"


def read_stamp(manifest_dir: Path, part: str) -> dict[str, Any]:
    """Return the stamp of an index; an empty one if it is missing or damaged."""
    try:
        stamp = json.loads(stamp_path(manifest_dir, part).read_bytes())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def rate_problem(sample_rate: Any) -> str:
    """Return what is wrong with a sample rate; an empty string if it can be that of speech.

    A header can declare any: at 1 Hz, a second of audio would count as hours and be resampled to gigabytes.
    """
    if sample_rate in SAMPLE_RATES:
        return ""
    return f"a sample rate of {sample_rate} Hz, must be {SAMPLE_RATES[0]:,} to {SAMPLE_RATES[-1]:,}"


@dataclass(slots=True)
class IndexedCut:
    """A whole mono audio file, folder/ID.flac, with its text. lhotse's samplers can treat it as a cut.

    folder:   relative to the corpus's root in an index; absolute once it is loaded
    duration: seconds
    """

    id: str
    text: str
    speaker: str
    folder: str
    sampling_rate: int
    num_samples: int
    duration: float = field(init=False)
    dataloading_info: Any = field(default=None, compare=False)  # set by lhotse's samplers

    def __post_init__(self) -> None:
        self.duration = self.num_samples / self.sampling_rate

    @classmethod
    def read(cls, line: str, prefix: str = "") -> "IndexedCut | None":
        """Read a line of a manifest; None if it does not have exactly the form that an index has.

        prefix: is put before its folder
        """
        if (match := LINE.fullmatch(line)) is None:
            return None
        id, seconds, text, speaker, folder, rate, samples = match.groups()
        # Values that many cuts share are kept in memory once.
        cut = cls(id, text, sys.intern(speaker), sys.intern(prefix + folder), shared_int(rate), int(samples))
        return cut if cut.duration == float(seconds) and cut.sampling_rate in SAMPLE_RATES else None

    @property
    def path(self) -> str:
        """The audio file."""
        return f"{self.folder}/{self.id}.flac"

    def mono(self) -> MonoCut:
        """Return the cut as lhotse's type."""
        recording = Recording(
            self.id, [AudioSource("file", [0], self.path)], self.sampling_rate, self.num_samples, self.duration
        )
        supervision = SupervisionSegment(self.id, self.id, 0.0, self.duration, 0, self.text, speaker=self.speaker)
        return MonoCut(self.id, 0.0, self.duration, 0, [supervision], recording=recording)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of a lhotse cut."""
        if name.startswith("__"):  # pickle and copy look for such before the fields are set
            raise AttributeError(name)
        return getattr(self.mono(), name)
