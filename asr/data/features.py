"""Compute log-mel spectrograms, with masks between mel and log, as in the writeup."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import MelScale, Spectrogram

from asr.settings import POSITIVE, SAMPLE_RATES, one_of, require, whole

Samples = TypeVar("Samples", int, np.ndarray)
SpectrogramTransform = Callable[[Tensor], Tensor]


class LogMel(nn.Module):
    """Compute log(mel + floor) of a waveform, one utterance at a time, so that padding cannot change it.

    sample_rate:     of every waveform, in Hz
    n_fft, hop_samples: window and step of the Fourier transform, in samples; torchaudio's defaults are 400 and 200
    n_mels:          number of mel filters, the height F of the spectrogram
    max_hz:          upper edge of the highest filter; None is half of the sample rate
    floor:           added before the log, so that silence is log(floor)
    normalize:       "none" (the writeup) or "utterance": mean 0 and standard deviation 1 of each mel bin
    raises:          InputError for a setting of the wrong type or out of bounds
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop_samples: int,
        n_mels: int,
        max_hz: float | None,
        floor: float,
        normalize: str,
    ) -> None:
        super().__init__()
        require("features.sample_rate", sample_rate, whole(SAMPLE_RATES[0], SAMPLE_RATES[-1]))
        require("features.n_fft", n_fft, whole(2, sample_rate))  # a window of a second at most
        require("features.hop_samples", hop_samples, whole(1, n_fft))
        require("features.n_mels", n_mels, whole(1, 1_024))
        require("features.max_hz", max_hz, POSITIVE.or_null)
        require("features.floor", floor, POSITIVE)
        require("features.normalize", normalize, one_of("none", "utterance"))
        self.sample_rate, self.hop_samples, self.n_mels = sample_rate, hop_samples, n_mels
        self.floor, self.normalize = floor, normalize
        self.shortest = n_fft // 2 + 1  # samples: fewer cannot be padded by reflection, so silence is added
        # Complex: torchaudio's power takes roots and squares them, at four times the cost of ours.
        self.spectrum = Spectrogram(n_fft, hop_length=hop_samples, power=None)
        with warnings.catch_warnings():
            # With the writeup's n_fft and n_mels some of the lowest filters fall between two frequencies and are empty.
            warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
            self.mel = MelScale(n_mels, sample_rate, f_max=max_hz, n_stft=n_fft // 2 + 1)

    def frames(self, samples: Samples) -> Samples:
        """Return the number of frames of so many samples: one more than whole hops, since the window is centred."""
        return np.maximum(samples, self.shortest) // self.hop_samples + 1

    def forward(self, waveform: Tensor, masks: Sequence[SpectrogramTransform] = ()) -> Tensor:
        """Return the features (F, T), T = frames(N), of a waveform (N,) in -1..1; masks are applied to mel (F, T)."""
        if len(waveform) < self.shortest:
            waveform = F.pad(waveform, (0, self.shortest - len(waveform)))
        spectrum = self.spectrum(waveform)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = self.mel.fb.T @ power  # contiguous, unlike self.mel(power): masks and collate are faster
        for mask in masks:
            mel = mask(mel)
        log_mel = torch.log(mel + self.floor)
        if self.normalize == "utterance":
            log_mel = (log_mel - log_mel.mean(1, keepdim=True)) / (log_mel.std(1, keepdim=True, correction=0) + 1e-2)
        return log_mel
