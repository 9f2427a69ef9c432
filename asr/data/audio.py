"""Read the audio of an utterance at the sample rate of the features."""

import numpy as np
import soxr

from asr.corpora.audio_files import AudioError, decode
from asr.corpora.manifest import Utterance
from asr.errors import InputError, first_line


class UnreadableError(InputError):
    """Raised for an utterance without usable audio; args: its id, the reason."""

    def __str__(self) -> str:
        id, reason = self.args
        return (
            f"{id}: {reason}; restore the file, or make the manifest anew without the utterance: python -m asr.prepare"
        )


def load_audio(utterance: Utterance, sample_rate: int) -> np.ndarray:
    """Return the samples of an utterance at sample_rate: (N,) float32, all finite, at least one.

    raises: UnreadableError, also if the file is not as long as the manifest says
    """
    try:
        content = utterance.read_bytes()
    except Exception as error:  # file systems raise anything
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UnreadableError(utterance.id, f"{utterance.location} cannot be opened: {reason}") from error
    try:
        samples = decode(content, utterance.num_samples, utterance.sample_rate)
    except AudioError as error:
        where = "" if utterance.offset is None else f", byte {utterance.offset:,}"
        raise UnreadableError(utterance.id, f"{utterance.location}{where}: {error}") from error
    return (
        samples if utterance.sample_rate == sample_rate else soxr.resample(samples, utterance.sample_rate, sample_rate)
    )
