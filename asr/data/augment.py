"""Augment waveforms (audiomentations) and mel spectrograms (torchaudio), seeded for each utterance.

Both libraries draw from the global generators of random, numpy and torch. The augmentation of an utterance must not
depend on the worker, and must differ from one epoch of the data to the next, so `seeded` seeds all three generators by
(seed, epoch of the data, utterance id) and restores them afterwards.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from zlib import crc32

import audiomentations
import numpy as np
import soxr
import torch
from torch import Tensor

from asr.errors import InputError

WaveTransform = Callable[..., np.ndarray]


@contextmanager
def seeded(*key: object) -> Iterator[None]:
    """Seed the global generators of random, numpy and torch (CPU) by `key`, and restore them afterwards."""
    # Not Python's hash(), which differs from process to process for a string.
    seed = int.from_bytes(blake2b(repr(key).encode(), digest_size=4).digest(), "little")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class AddGaussianNoise(audiomentations.AddGaussianNoise):
    """The same noise with the same parameters, drawn by torch in a quarter of the time that numpy takes in float64."""

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Add the noise to float32 samples."""
        noise = torch.empty(samples.shape).normal_(0, self.parameters["amplitude"]).numpy()
        return np.add(samples, noise, out=noise)


class Speed:
    """Draw the speed of an utterance. It is changed by resampling, so pitch and formants change with it.

    p:               the probability that the speed is not 1
    slowest, fastest: the bounds of its uniform distribution; 1.1 is 10 % faster
    source: Ko et al. 2015, "Audio Augmentation for Speech Recognition", which uses three speeds
    """

    def __init__(self, p: float, slowest: float, fastest: float) -> None:
        if not (0 <= p <= 1 and 0 < slowest <= fastest):
            raise InputError(
                f"augment.speed: p={p}, slowest={slowest}, fastest={fastest}; a probability p of 0 to 1 and "
                "0 < slowest <= fastest are needed"
            )
        self.p, self.slowest, self.fastest = p, slowest, fastest

    def draw(self, numbers: np.ndarray) -> np.ndarray:
        """Turn numbers in [0, 1) into speeds."""
        changed = self.slowest + numbers / (self.p or 1) * (self.fastest - self.slowest)
        return np.where(numbers < self.p, changed, 1.0)


def id_keys(ids: Sequence[str]) -> np.ndarray:
    """Return a number for each id, by which `uniform` draws."""
    return np.fromiter((crc32(id.encode()) for id in ids), np.uint64, len(ids))


def uniform(seed: int, data_epoch: int, keys: np.ndarray) -> np.ndarray:
    """Draw a number in [0, 1) for each key, a function of the seed, the epoch of the data and the key alone.

    source: SplitMix64's finaliser, Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators"
    """
    start = np.frombuffer(blake2b(f"{seed} {data_epoch}".encode(), digest_size=8).digest(), np.uint64)
    z = keys * np.uint64(0x9E3779B97F4A7C15) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2**53


def at_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Resample (N,) float32 samples to about N / speed."""
    return samples if speed == 1 else soxr.resample(samples, speed, 1, quality="MQ")


class Sometimes:
    """Apply a spectrogram transform with probability p, which torchaudio's masks cannot do themselves.

    source: the writeup's wrapper around its masks, p = 0.3
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], p: float) -> None:
        self.transform, self.p = transform, p

    def __call__(self, mel: Tensor) -> Tensor:
        """Transform mel (F, T), or return it as it is."""
        return self.transform(mel) if torch.rand(()) < self.p else mel


@dataclass(frozen=True)
class Augment:
    """The augmentation of training utterances: speed, then waveform transforms, then masks on the mel spectrogram."""

    speed: Speed | None = None
    wave: Sequence[WaveTransform] = field(default_factory=tuple)
    spectrogram: Sequence[Callable[[Tensor], Tensor]] = field(default_factory=tuple)

    @property
    def transforms(self) -> list[object]:
        """All transforms, in the order in which they are applied."""
        return [*filter(None, [self.speed]), *self.wave, *self.spectrogram]

    @property
    def slowest(self) -> float:
        """The lowest speed that can be drawn."""
        return min(1.0, self.speed.slowest) if self.speed else 1.0

    def speeds(self, seed: int, data_epoch: int, keys: np.ndarray) -> np.ndarray:
        """Draw the speed of each utterance in an epoch of the data; keys: see id_keys."""
        return self.speed.draw(uniform(seed, data_epoch, keys)) if self.speed else np.ones(len(keys))

    def waveform(self, samples: np.ndarray, sample_rate: int, speed: float = 1.0) -> np.ndarray:
        """Change the speed of (N,) float32 samples in -1..1 and transform them; returns (N',) float32."""
        samples = at_speed(samples, speed)
        for transform in self.wave:
            samples = transform(samples, sample_rate=sample_rate)
        return samples
