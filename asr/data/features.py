"""Log-mel spectrograms, with room for masks between mel and log, as the writeup has it."""

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import MelScale, Spectrogram

from asr.settings import POSITIVE, SAMPLE_RATES, one_of, require, whole

SpectrogramTransform = Callable[[Tensor], Tensor]


class LogMel(nn.Module):
    """Waveform -> log(mel + floor), one utterance at a time, so that no utterance sees the padding of another.

    sample_rate:     samples a second of every waveform
    n_fft, hop_samples: window and step of the Fourier transform, in samples; torchaudio's defaults are 400 and 200
    n_mels:          mel filters, the height F of the picture
    max_hz:          upper edge of the highest filter; null is half of the sample rate
    floor:           added before the log, so silence is log(floor)
    normalize:       "none" (the writeup) or "utterance": every mel bin to mean 0 and deviation 1 over the utterance
    raises:          InputError for a setting of another type or out of bounds
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
        self.shortest = n_fft // 2 + 1  # samples: fewer cannot be mirrored at their ends, so silence is added
        # Complex: torchaudio's power takes roots and squares them, at four times the cost of ours.
        self.spectrum = Spectrogram(n_fft, hop_length=hop_samples, power=None)
        with warnings.catch_warnings():
            # With the writeup's n_fft and n_mels some of the lowest filters fall between two frequencies and are empty.
            warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
            self.mel = MelScale(n_mels, sample_rate, f_max=max_hz, n_stft=n_fft // 2 + 1)

    def frames(self, samples: int) -> int:
        """Frames of an utterance of so many samples (the window is centred, so one more than whole steps)."""
        return max(samples, self.shortest) // self.hop_samples + 1

    def forward(self, waveform: Tensor, masks: Sequence[SpectrogramTransform] = ()) -> Tensor:
        """waveform: (N,) samples in -1..1; masks: applied to mel (F, T), in order; returns (F, T) with `frames(N)`."""
        if len(waveform) < self.shortest:
            waveform = F.pad(waveform, (0, self.shortest - len(waveform)))
        spectrum = self.spectrum(waveform)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = self.mel.fb.T @ power  # not self.mel(power): its rows would not lie in one piece, for masks and collate
        for mask in masks:
            mel = mask(mel)
        log_mel = torch.log(mel + self.floor)
        if self.normalize == "utterance":
            log_mel = (log_mel - log_mel.mean(1, keepdim=True)) / (log_mel.std(1, keepdim=True, correction=0) + 1e-2)
        return log_mel
