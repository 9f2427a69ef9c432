"""Decode audio files, and find out whether they can be used."""

from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import soundfile

from asr.errors import InputError
from asr.settings import SAMPLE_RATES


class AudioError(InputError):
    """Raised for an audio file that cannot be used, with the reason."""


def measure(path: Path, verify: bool) -> tuple[int, int]:
    """Return the number of samples and the sample rate of an audio file.

    verify: decode all of it, instead of the header and the last sample
    raises: AudioError if it cannot be used
    """
    try:
        with _opened(path) as audio:
            require_whole(audio, path)
            size = audio.frames, audio.samplerate
        if verify and not decode(path.read_bytes(), *size).any():
            raise AudioError("nothing but silence")
        return size
    except soundfile.LibsndfileError as error:
        raise AudioError(f"unreadable or cut off ({error.error_string})") from error
    except OSError as error:
        raise AudioError(f"unreadable or cut off ({error.strerror})") from error


def decode(content: bytes, num_samples: int, sample_rate: int) -> np.ndarray:
    """Return the samples of a mono audio file: (num_samples,) float32, all finite.

    raises: AudioError if it cannot be decoded, or has another length or sample rate
    """
    try:
        with _opened(BytesIO(content)) as audio:
            if (audio.frames, audio.samplerate) != (num_samples, sample_rate):
                raise AudioError(
                    f"{audio.frames:,} samples at {audio.samplerate} Hz, its manifest says {num_samples:,} at "
                    f"{sample_rate} Hz"
                )
            samples = audio.read(dtype="float32")
    except soundfile.LibsndfileError as error:
        raise AudioError(f"unreadable or cut off ({error.error_string})") from error
    if len(samples) != num_samples:
        raise AudioError(f"cut off or damaged: {len(samples):,} of {num_samples:,} samples can be decoded")
    if not np.isfinite(samples).all():
        raise AudioError("samples that are not finite")
    if hides_samples(content):
        raise AudioError(f"more samples than the {num_samples:,} that its header declares")
    return samples


def require_whole(audio: soundfile.SoundFile, path: Path) -> None:
    """Raise AudioError if an opened file holds no sample or lacks its last one; the next sample read is the first."""
    if audio.frames == 0:
        raise AudioError("no samples")
    audio.seek(audio.frames - 1)  # fails if the end of the file is cut off, and costs 0.1 ms
    if len(audio.read(1)) != 1:
        raise AudioError("cut off: its last sample is missing")
    if audio.format == "WAV" and path.stat().st_size < _declared_bytes(path):
        raise AudioError("cut off: it ends before the samples that its header declares")
    audio.seek(0)


def _declared_bytes(path: Path) -> int:
    """Return how long a WAV file must be to hold its samples, which libsndfile does not check. source: RIFF"""
    with path.open("rb") as file:
        head = file.read(4096)
    place = head.find(b"data")
    size = int.from_bytes(head[place + 4 : place + 8], "little")
    return 0 if place < 0 or size == 0xFFFFFFFF else place + 8 + size  # written by a stream: its length is not known


def _opened(file: Path | IO[bytes]) -> soundfile.SoundFile:
    audio = soundfile.SoundFile(file)
    if audio.channels != 1:
        raise AudioError(f"{audio.channels} channels, must be one; mix down: ffmpeg -i IN -ac 1 OUT.flac")
    require_rate(audio.samplerate)
    return audio


def require_rate(rate: int) -> None:
    """Raise AudioError for a sample rate that no speech has."""
    if rate not in SAMPLE_RATES:
        # At 1 Hz, a second of audio would count as hours and be resampled to gigabytes.
        raise AudioError(f"a sample rate of {rate} Hz, must be {SAMPLE_RATES[0]:,} to {SAMPLE_RATES[-1]:,}")


def hides_samples(content: bytes) -> bool:
    """Return whether a readable FLAC file holds more samples than its header declares, which decoders leave out.

    It declares one more sample and looks for it, which takes a twentieth of the time of decoding.
    """
    start = content.find(b"fLaC", 0, 4096)  # not 0 behind a tag
    if start < 0:
        return False
    altered = bytearray(content)
    # The number of samples is the last 36 bits of these eight bytes. source: RFC 9639, section 8.2
    number = slice(start + 18, start + 26)
    altered[number] = (int.from_bytes(altered[number], "big") + 1).to_bytes(8, "big")
    with soundfile.SoundFile(BytesIO(altered)) as audio:
        try:
            return audio.format == "FLAC" and audio.seek(audio.frames - 1) >= 0 and len(audio.read(1)) == 1
        except soundfile.LibsndfileError:
            return False
