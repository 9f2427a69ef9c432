"""Augmentation of waveforms (audiomentations) and of mel spectrograms (torchaudio), seeded for each utterance.

Both libraries draw from the global generators of random, numpy and torch. An utterance's augmentation must be the same
whichever worker makes it and different whenever it comes again, so `Augment` seeds all three from
(seed, pass over the data, utterance id) and puts them back.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b

import audiomentations
import numpy as np
import soxr
import torch
from torch import Tensor

from asr.errors import InputError

WaveTransform = Callable[..., np.ndarray]


@contextmanager
def seeded(*key: object) -> Iterator[None]:
    """Inside, the global generators of random, numpy and torch (CPU) depend on `key` alone; outside nothing changes."""
    # A hash of our own: Python's hash() of a string differs from process to process.
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
    """The same noise, of the same parameters, drawn by torch: a quarter of the time of numpy's normals in float64."""

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """samples: float32; returns as many."""
        noise = torch.empty(samples.shape).normal_(0, self.parameters["amplitude"]).numpy()
        return np.add(samples, noise, out=noise)


class Speed:
    """Speech at another speed, by resampling: pitch and formants move with it.

    p:               the probability that the speed is not 1
    slowest, fastest: between which it is drawn evenly; 1.1 is a tenth faster
    source: Ko et al. 2015, "Audio Augmentation for Speech Recognition", which has three speeds
    """

    def __init__(self, p: float, slowest: float, fastest: float) -> None:
        if not (0 <= p <= 1 and 0 < slowest <= fastest):
            raise InputError(
                f"augment.speed: p={p}, slowest={slowest}, fastest={fastest}; a probability p of 0 to 1 and "
                "0 < slowest <= fastest are needed"
            )
        self.p, self.slowest, self.fastest = p, slowest, fastest

    def draw(self, *key: object) -> float:
        """A speed that depends on the key alone. It is drawn apart, since batches of like length are made by it."""
        own = random.Random(repr(key))
        return own.uniform(self.slowest, self.fastest) if own.random() < self.p else 1.0


def at_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """samples: (N,) float32; returns about N / speed."""
    return samples if speed == 1 else soxr.resample(samples, speed, 1, quality="MQ")


class Sometimes:
    """A spectrogram transform that is applied with probability p (torchaudio's masks have none of their own).

    source: the writeup's wrapper around its masks, p = 0.3
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], p: float) -> None:
        self.transform, self.p = transform, p

    def __call__(self, mel: Tensor) -> Tensor:
        """mel: (F, T); returns (F, T)."""
        return self.transform(mel) if torch.rand(()) < self.p else mel


@dataclass(frozen=True)
class Augment:
    """What happens to a training utterance: speed, waves in order, masks on the mel spectrogram before its log."""

    speed: Speed | None = None
    wave: Sequence[WaveTransform] = field(default_factory=tuple)
    spectrogram: Sequence[Callable[[Tensor], Tensor]] = field(default_factory=tuple)

    @property
    def transforms(self) -> list[object]:
        """All of them, in the order in which they are applied."""
        return [*filter(None, [self.speed]), *self.wave, *self.spectrogram]

    @property
    def slowest(self) -> float:
        """The lowest speed that can be drawn."""
        return min(1.0, self.speed.slowest) if self.speed else 1.0

    def speed_of(self, *key: object) -> float:
        """At which an utterance is heard; it depends on the key alone."""
        return self.speed.draw(*key) if self.speed else 1.0

    def waveform(self, samples: np.ndarray, sample_rate: int, speed: float = 1.0) -> np.ndarray:
        """samples: (N,) float32 in -1..1; returns (N',) float32."""
        samples = at_speed(samples, speed)
        for transform in self.wave:
            samples = transform(samples, sample_rate=sample_rate)
        return samples
