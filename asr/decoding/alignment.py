"""Find when each word of a text was spoken, and how sure the model is of it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchaudio.functional import forced_align

from asr.data.text import BLANK, Alphabet


class Word(NamedTuple):
    """A word, from `start` to `end` seconds, and the model's confidence in it, from 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float


def align_words(log_probs: Tensor, text: str, alphabet: Alphabet, frame_seconds: float) -> list[Word]:
    """Return the words of a text with their times: those of the most likely CTC path of exactly this text.

    log_probs:     (T, V) of one utterance, without padding, on the CPU
    text:          normalised; T frames must suffice for it (asr.data.text.frames_needed)
    frame_seconds: from one frame to the next
    """
    ids = alphabet.encode(text)
    if not text.split():
        return []
    path = forced_align(log_probs[None].float(), torch.tensor([ids]), blank=BLANK)[0][0]
    confidences = frame_confidences(log_probs)
    spoken = torch.nonzero(path != BLANK).flatten().tolist()
    # The path's runs of equal symbols, in order: those of `ids`.
    runs: list[list[int]] = []
    for frame in spoken:
        if runs and runs[-1][-1] == frame - 1 and path[frame] == path[frame - 1]:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    words, begin = [], 0
    for word in text.split(" "):
        if word:
            frames = [frame for run in runs[begin : begin + len(word)] for frame in run]
            start, end = frames[0] * frame_seconds, (frames[-1] + 1) * frame_seconds
            words.append(Word(word, start, end, float(confidences[frames].mean())))
        begin += len(word) + 1
    return words


def frame_confidences(log_probs: Tensor) -> Tensor:
    """Return one minus the entropy over its maximum, (T,), for log_probs (T, V)."""
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return 1 - entropy / math.log(log_probs.shape[-1])
