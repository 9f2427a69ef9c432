"""Transcribe recordings with a trained model: what asr.load returns."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.corpora.audio_files import AudioError
from asr.data.dataset import one_thread
from asr.decoding.alignment import Word, align_words
from asr.decoding.decoder import Decoder, Hypothesis
from asr.decoding.greedy import Greedy
from asr.errors import InputError
from asr.models.recognizer import Recognizer
from asr.training import checkpoint
from asr.training.checkpoint import from_checkpoint
from asr.training.compute import find_device
from asr.transcription.chunks import LONGEST_SECONDS, Chunk, cut
from asr.transcription.recording import read_array, read_file

BATCH = 16  # chunks


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    text:    the words, one space between them
    words:   with their times in the recording
    seconds: transcribed; less than the recording's while it is being transcribed
    n_best:  the decoder's hypotheses, the best first; of a recording in several chunks the best alone
    """

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
        *_, transcript = self.stream(audio, rate)
        return transcript

    def stream(
        self, audio: str | Path | np.ndarray, rate: int | None = None, chunk_seconds: float = LONGEST_SECONDS
    ) -> Iterator[Transcript]:
        """Yield the growing transcript of a recording after every few chunks, in constant memory.

        chunk_seconds: longest chunk; each is cut at a pause if there is one, normalised and decoded on its own
        """
        wanted = self.recognizer.features.sample_rate
        if not isinstance(audio, np.ndarray):
            blocks = read_file(Path(audio), wanted)
        elif rate is not None:
            blocks = read_array(audio, rate, wanted)
        else:
            raise InputError("rate is not given: an array of samples needs its sample rate, in Hz")
        words: list[Word] = []
        score = 0.0
        chunks = cut(_named(blocks, audio), wanted, chunk_seconds)
        while batch := list(islice(chunks, BATCH)):
            for chunk, (found, n_best) in zip(batch, self.transcribe_chunks(batch), strict=True):
                words, score = join_words(words, found, chunk), score + n_best[0].score
            text = " ".join(word.text for word in words)
            one_piece = chunk.start == 0
            seconds = chunk.start + len(chunk.samples) / wanted
            yield Transcript(text, words, seconds, n_best if one_piece else [Hypothesis(text, score)])

    def transcribe_chunks(self, chunks: list[Chunk]) -> Iterator[tuple[list[Word], list[Hypothesis]]]:
        """Yield the words and the hypotheses of each chunk; the times are those of the recording."""
        log_probs, lengths = self.log_probs([chunk.samples for chunk in chunks])
        recognizer = self.recognizer
        for chunk, own, length, n_best in zip(
            chunks, log_probs, lengths, self.decoder(log_probs, lengths), strict=True
        ):
            if not chunk.samples.any():
                n_best = [Hypothesis("", 0.0)]  # digital silence, which normalised features do not show
            words = align_words(own[:length], n_best[0].text, recognizer.alphabet, recognizer.frame_seconds)
            shifted = [word._replace(start=word.start + chunk.start, end=word.end + chunk.start) for word in words]
            yield shifted, n_best

    @torch.inference_mode()
    def log_probs(self, waveforms: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities (B, T, V), on the CPU, and the valid frames (B,) of waveforms (N,).

        waveforms: at the sample rate of the features
        """
        with one_thread():
            features = [self.recognizer.features(torch.from_numpy(waveform)).T for waveform in waveforms]
        lengths = torch.tensor([len(one) for one in features])
        padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True).transpose(1, 2)
        output = self.recognizer.model(padded.to(self.device), lengths)
        return output.log_probs.float().cpu(), output.lengths


def _named(blocks: Iterable[np.ndarray], audio: object) -> Iterator[np.ndarray]:
    """Yield the blocks; an AudioError gets the name of the recording."""
    try:
        yield from blocks
    except AudioError as error:
        raise InputError(f"{'audio' if isinstance(audio, np.ndarray) else audio}: {error}") from error


def join_words(said: list[Word], found: list[Word], chunk: Chunk) -> list[Word]:
    """Append the words of a chunk to those before it. Each word of an overlap is taken from the nearer chunk."""
    if not chunk.overlap:
        return said + found
    seam = chunk.start + chunk.overlap / 2
    kept = [word for word in said if word.start + word.end < 2 * seam]
    after = max(kept[-1].end, chunk.start) if kept else chunk.start
    return kept + [word for word in found if word.start + word.end > 2 * after]


def load(path: str | Path, decoder: Decoder | None = None, device: str = "cpu") -> Transcriber:
    """Return the transcriber of a checkpoint.

    path:    best.pt or last.pt of a run
    decoder: None for greedy decoding
    device:  auto (CUDA if there is one), cpu, cuda, ...
    raises:  InputError if the checkpoint cannot be read, or torch cannot use the device
    """
    path = Path(path)
    recognizer = from_checkpoint(checkpoint.load(path), path)
    on = find_device(device)
    recognizer.model.eval().to(on)
    return Transcriber(recognizer, decoder or Greedy(recognizer.alphabet), on)
