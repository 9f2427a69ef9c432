"""Read a recording block by block: any format, channels and sample rate that libsndfile reads."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.corpora.audio_files import AudioError, require_rate, require_whole
from asr.errors import InputError

BLOCK = 1 << 20  # values, those of all channels


def duration(path: Path) -> float:
    """Return the seconds of an audio file, by its header; AudioError if it cannot be used."""
    with _opened(path) as file:
        return file.frames / file.samplerate


def read_file(path: Path, rate: int) -> Iterator[np.ndarray]:
    """Yield the samples (N,) of an audio file in blocks, mixed down to mono and resampled to `rate` Hz.

    raises: AudioError if it cannot be used, or a damaged place is reached
    """
    with _opened(path) as file:
        blocks = file.blocks(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)
        yield from _mono(blocks, file.samplerate, rate)


def read_array(samples: np.ndarray, samples_rate: int, rate: int) -> Iterator[np.ndarray]:
    """Yield an array, (N,) or (N, channels) in -1..1 at samples_rate Hz, as `read_file` does a file."""
    if not (isinstance(samples, np.ndarray) and samples.ndim in (1, 2) and samples.dtype.kind == "f"):
        raise InputError("audio: it must be a path or an array of floats in -1..1, (N,) or (N, channels)")
    if not samples.size:
        raise AudioError("audio: no samples")
    require_rate(samples_rate)
    samples = samples.reshape(len(samples), -1)
    size = max(1, BLOCK // samples.shape[1])
    blocks = (samples[first : first + size] for first in range(0, len(samples), size))
    yield from _mono(blocks, samples_rate, rate)


def _mono(blocks: Iterable[np.ndarray], rate: int, wanted: int) -> Iterator[np.ndarray]:
    """Mix blocks (N, channels) down and resample them."""
    resampler = soxr.ResampleStream(rate, wanted, 1, "float32") if rate != wanted else None
    for block in blocks:
        mono = block.mean(1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise AudioError("samples that are not finite")
        yield resampler.resample_chunk(mono) if resampler else mono
    if resampler:
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open an audio file and check its header; whatever libsndfile finds while it is open becomes an AudioError."""
    try:
        path.open("rb").close()  # names the reason, which libsndfile does not
        with soundfile.SoundFile(path) as file:
            require_rate(file.samplerate)
            require_whole(file, path)
            yield file
    except OSError as error:
        raise AudioError(f"cannot be opened: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"unreadable or cut off ({error.error_string}); formats: WAV, FLAC, OGG, MP3, SPHERE"
        ) from error
