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
import torch
from torch import Tensor

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
    """What happens to a training utterance: waves in order, then masks on the mel spectrogram before its log."""

    wave: Sequence[WaveTransform] = field(default_factory=tuple)
    spectrogram: Sequence[Callable[[Tensor], Tensor]] = field(default_factory=tuple)

    @property
    def transforms(self) -> list[Callable]:
        """All of them, in the order in which they are applied."""
        return [*self.wave, *self.spectrogram]

    def waveform(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """samples: (N,) float32 in -1..1; returns (N',) float32."""
        for transform in self.wave:
            samples = transform(samples, sample_rate=sample_rate)
        return samples
