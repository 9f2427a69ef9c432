"""Transcribe recordings with a trained model: what asr.load returns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from asr.data.dataset import one_thread
from asr.decoding.alignment import Word, align_words
from asr.decoding.decoder import Decoder, Hypothesis
from asr.decoding.greedy import Greedy
from asr.errors import InputError
from asr.models.recognizer import Recognizer
from asr.training import checkpoint
from asr.training.checkpoint import from_checkpoint


@dataclass(frozen=True)
class Transcript:
    """The text of a recording of so many seconds, its words with their times, and the decoder's hypotheses."""

    text: str
    words: list[Word]
    seconds: float
    n_best: list[Hypothesis]


@dataclass(frozen=True)
class Transcriber:
    """Turn recordings into text.

    recognizer: its model is in eval mode on `device`
    """

    recognizer: Recognizer
    decoder: Decoder
    device: torch.device

    def transcribe(self, audio: str | Path | np.ndarray, rate: int | None = None) -> Transcript:
        """Return the transcript of a recording.

        audio:  an audio file, or its samples, (N,) or (N, channels) in -1..1
        rate:   the sample rate of an array, in Hz
        raises: InputError for audio that cannot be used
        """
        if isinstance(audio, str | Path):
            audio, rate = soundfile.read(audio, dtype="float32")
        if rate is None:
            raise InputError("rate is not given: an array of samples needs its sample rate, in Hz")
        samples = np.asarray(audio, dtype=np.float32)
        if samples.ndim == 2:
            samples = samples.mean(1)
        wanted = self.recognizer.features.sample_rate
        log_probs = self.log_probs(samples if rate == wanted else soxr.resample(samples, rate, wanted))
        (n_best,) = self.decoder(log_probs[None], torch.tensor([len(log_probs)]))
        text = n_best[0].text
        words = align_words(log_probs, text, self.recognizer.alphabet, self.recognizer.frame_seconds)
        return Transcript(" ".join(text.split()), words, len(samples) / rate, n_best)

    @torch.inference_mode()
    def log_probs(self, samples: np.ndarray) -> torch.Tensor:
        """Return the log-probabilities (T, V) of samples (N,) at the sample rate of the features."""
        with one_thread():
            features = self.recognizer.features(torch.from_numpy(samples))
        output = self.recognizer.model(features[None].to(self.device), torch.tensor([features.shape[1]]))
        return output.log_probs[0, : int(output.lengths[0])].float().cpu()


def load(path: str | Path, decoder: Decoder | None = None, device: str = "cpu") -> Transcriber:
    """Return the transcriber of a checkpoint.

    path:    best.pt or last.pt of a run
    decoder: None for greedy decoding
    device:  cpu, cuda, ...
    raises:  InputError if the checkpoint cannot be read
    """
    path = Path(path)
    recognizer = from_checkpoint(checkpoint.load(path), path)
    recognizer.model.eval().to(device)
    return Transcriber(recognizer, decoder or Greedy(recognizer.alphabet), torch.device(device))
