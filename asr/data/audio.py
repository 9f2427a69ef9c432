"""Read the audio of an utterance, and decide whether it can be used."""

import logging
import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from lhotse.audio import AudioSource, set_audio_duration_mismatch_tolerance
from lhotse.cut import Cut

from asr.corpora.audio_files import hides_samples
from asr.corpora.cuts import TOLERANCE_SECONDS
from asr.corpora.utterance import IndexedCut, rate_problem
from asr.errors import InputError, first_line


class UnreadableError(InputError):
    """Raised for an utterance without usable audio; args: its id, the reason."""

    def __str__(self) -> str:
        id, reason = self.args
        return f"{id}: {reason}; restore the file, or make its index or cut set anew without the utterance"


def load_audio(cut: Cut, sample_rate: int) -> np.ndarray:
    """Return the samples of a mono cut at sample_rate: (N,) float32, all finite, at least one.

    raises: UnreadableError, also if the file has over TOLERANCE_SECONDS less audio than the cut says, or more
    """
    _tighten_lhotse()
    if isinstance(cut, IndexedCut):
        cut = cut.mono()
    source = cut.recording.sources[0]
    name = _name(source)
    if problem := rate_problem(cut.recording.sampling_rate):
        raise UnreadableError(cut.id, f"{name} has {problem}")
    try:
        samples = (cut if cut.sampling_rate == sample_rate else cut.resample(sample_rate)).load_audio()
        # What lies beyond a cut of a longer recording does not matter, and finding it would read the whole file.
        is_whole = cut.start == 0 and cut.duration >= cut.recording.duration - TOLERANCE_SECONDS
        hides = is_whole and source.type == "file" and hides_samples(Path(source.source))
    except MemoryError:  # not the file's fault
        raise
    except Exception as error:  # lhotse's many readers raise anything
        raise UnreadableError(cut.id, _complaint(source, error)) from error
    if len(samples) != 1:
        raise UnreadableError(cut.id, f"{name} has {len(samples)} channels, its cut has one")
    if not np.isfinite(samples).all():
        raise UnreadableError(cut.id, f"{name} holds samples that are not finite")
    if hides:
        raise UnreadableError(cut.id, f"{name} holds more samples than its header declares")
    return samples[0]


@cache
def _tighten_lhotse() -> None:
    """Lower lhotse's tolerance in this process, once.

    By default lhotse mirrors or cuts the end of an utterance where up to half a second is missing or too much, and says
    nothing. It warns that resampling may need such a repair; what resampling rounds is a sample or two.
    """
    logging.disable(logging.INFO)  # each process that reads would print a line about it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            set_audio_duration_mismatch_tolerance(TOLERANCE_SECONDS)
    finally:
        logging.disable(logging.NOTSET)


def _name(source: AudioSource) -> str:
    return str(source.source) if source.type in ("file", "url") else f"its audio ({source.type})"


def _complaint(source: AudioSource, error: Exception) -> str:
    """Describe what is wrong with the audio: lhotse's own message is long, and libsndfile's is often "System error"."""
    if source.type == "file":
        try:
            open(source.source, "rb").close()
        except OSError as refused:
            return f"{_name(source)} cannot be opened: {refused.strerror}"
    if counted := re.search(r"number of declared samples .* diff=(-?\d+),", str(error)):
        missing = int(counted[1])
        return f"{_name(source)} has {abs(missing):,} samples {'fewer' if missing > 0 else 'more'} than its cut"
    first_reader = re.search(r"^Exception #0 .*?'>\): .*?'>: (.*)$", str(error), re.MULTILINE)
    return f"{_name(source)} cannot be read: {first_reader[1] if first_reader else first_line(error)}"
