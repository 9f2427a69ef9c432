"""Recordings to words: times, chunks, formats and what cannot be used, with a model that knows each letter's tone."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE, ROOT, WORDS, tones
from torch import nn

import asr
from asr.data.features import LogMel
from asr.data.text import Alphabet
from asr.decoding.greedy import Greedy
from asr.errors import InputError
from asr.models.deep_speech2 import ModelOutput
from asr.models.recognizer import Recognizer
from asr.transcription.transcriber import Transcriber

LETTERS = Alphabet(" abcdefghi")


class ToneModel(nn.Module):
    """Writes a letter where its tone is loud, a space where nothing is, and the blank between."""

    def __init__(self, features):
        super().__init__()
        middles = [features(torch.from_numpy(tones(letter, np.random.default_rng(0))))[:, 4] for letter in "abcdefghi"]
        self.loudest = torch.stack(middles).argmax(1)

    def output_lengths(self, lengths):
        return lengths

    def forward(self, features, lengths):
        level = features.exp().sum(1)
        letter = (features.argmax(1)[..., None] - self.loudest).abs().argmin(-1) + 2
        symbol = torch.where(level > 100, letter, torch.where(level < 1, 1, 0))
        return ModelOutput((12 * nn.functional.one_hot(symbol, 11).float()).log_softmax(-1), lengths)


@pytest.fixture(scope="module")
def transcriber():
    features = LogMel(RATE, n_fft=400, hop_samples=160, n_mels=80, max_hz=None, floor=1e-5, normalize="none")
    recognizer = Recognizer(LETTERS, features, ToneModel(features))
    return Transcriber(recognizer, Greedy(LETTERS), torch.device("cpu"))


def speech(words, seed=0):
    text = " ".join(np.random.default_rng(seed).choice(WORDS, size=words))
    return text, tones(text, np.random.default_rng(seed))


def test_words_have_the_times_at_which_they_were_spoken(transcriber):
    text, samples = speech(12)
    found = transcriber.transcribe(samples, RATE)
    assert found.text == text
    place = 0
    for word in found.words:
        assert word.start == pytest.approx(0.08 * place, abs=0.05)
        assert word.end == pytest.approx(0.08 * (place + len(word.text)), abs=0.05)
        assert 0.5 < word.confidence <= 1
        place += len(word.text) + 1
    assert found.seconds == pytest.approx(len(samples) / RATE)
    assert [one.text for one in found.n_best] == [text]


def test_a_recording_in_chunks_has_the_text_and_times_of_the_whole(transcriber):
    """Without a pause anywhere: all chunks overlap."""
    text, samples = speech(150)
    *parts, chunked = transcriber.stream(samples, RATE, chunk_seconds=6)
    (whole,) = transcriber.stream(samples, RATE, chunk_seconds=1000)
    assert len(samples) / RATE > 40
    assert len(parts) >= 1
    assert whole.text == chunked.text == text
    for one, other in zip(whole.words, chunked.words, strict=True):
        assert (other.start, other.end) == pytest.approx((one.start, one.end), abs=0.02)


def test_what_there_is_so_far_grows_to_the_transcript(transcriber):
    _, samples = speech(200)
    transcripts = list(transcriber.stream(samples, RATE, chunk_seconds=5))
    assert len(transcripts) > 1
    seconds = [transcript.seconds for transcript in transcripts]
    assert seconds == sorted(seconds)
    assert transcripts[0].words[:20] == transcripts[-1].words[:20]
    assert transcripts[-1] == list(transcriber.stream(samples, RATE, chunk_seconds=5))[-1]


@pytest.mark.parametrize(("suffix", "rate", "channels"), [
    ("flac", 16000, 1), ("wav", 44100, 2), ("wav", 16000, 8), ("ogg", 48000, 1), ("mp3", 44100, 1), ("aiff", 32000, 1),
])  # fmt: skip
def test_any_format_rate_and_channels(transcriber, tmp_path, suffix, rate, channels):
    import soxr

    text, samples = speech(10)
    samples = soxr.resample(samples, RATE, rate)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([samples] * channels, 1), rate)
    found = transcriber.transcribe(tmp_path / f"a.{suffix}")
    assert found.text == text
    assert found.seconds == pytest.approx(len(samples) / rate, abs=0.1)


def test_an_array_may_have_channels_and_a_rate_of_its_own(transcriber):
    text, samples = speech(10)
    loud = np.stack([2 * samples, 0 * samples], 1).astype(np.float64)
    assert transcriber.transcribe(loud, RATE).text == text


@pytest.mark.parametrize("samples", [np.zeros(8000), np.zeros(1), np.zeros((3, 2))])
def test_silence_and_less_than_a_frame_have_no_words(transcriber, samples):
    found = transcriber.transcribe(samples, RATE)
    assert (found.text, found.words, found.n_best[0].text) == ("", [], "")


@pytest.mark.parametrize(("samples", "rate", "message"), [
    (np.zeros(9), None, "rate is not given"),
    (np.zeros(0), RATE, "no samples"),
    (np.zeros(9), 1, "sample rate of 1 Hz, must be 4,000 to 384,000"),
    (np.zeros(9, np.int16), RATE, "floats in -1..1"),
    (np.zeros((2, 2, 2)), RATE, "floats in -1..1"),
    (np.full(9, np.nan), RATE, "not finite"),
    (np.array([0, np.inf]), RATE, "not finite"),
])  # fmt: skip
def test_an_array_that_cannot_be_used(transcriber, samples, rate, message):
    with pytest.raises(InputError, match=message):
        transcriber.transcribe(samples, rate)


def test_asr_load_needs_neither_hydra_nor_mlflow():
    code = (
        "import sys, asr, asr.transcription.transcriber; "
        "print([name for name in ('hydra', 'omegaconf', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_asr_load_explains_a_file_that_is_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        asr.load(tmp_path / "best.pt")
