"""Find when each word of a text was spoken, and how sure the model is of it."""

import re
from itertools import groupby
from operator import itemgetter
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


REACH_SECONDS = 0.1  # of a word beyond the frames of its symbols


def align_words(log_probs: Tensor, text: str, alphabet: Alphabet, frame_seconds: float) -> list[Word]:
    """Return the words of a text with their times, by the most likely CTC path of exactly this text.

    A CTC model marks a symbol in a frame or two, so a word begins halfway between the last symbol before it and its
    own first one, but at most REACH_SECONDS before that, since there may be a pause. Its confidence is the mean of its
    symbols' (docs/transcribe.md measures both).

    log_probs:     (T, V) of one utterance, without padding, on the CPU
    text:          normalised; T frames must suffice for it (asr.data.text.frames_needed)
    frame_seconds: from one frame to the next; the centre of frame 0 is at 0 s
    """
    ids = alphabet.encode(text)
    if not text.split():
        return []
    path = forced_align(log_probs[None].float(), torch.tensor([ids]), blank=BLANK)[0][0].tolist()
    # The frames of each symbol of the text: a run of its id in the path.
    symbols = [[frame for frame, _ in run] for id, run in groupby(enumerate(path), itemgetter(1)) if id != BLANK]
    confidences = frame_confidences(log_probs)
    spans, means = [], []
    for match in re.finditer("[^ ]+", text):
        frames = symbols[match.start() : match.end()]
        spans.append((frames[0][0], frames[-1][-1]))
        means.append(float(torch.stack([confidences[one].mean() for one in frames]).mean()))
    # Half a frame at the ends of the utterance, where there is no symbol to be halfway from.
    edges = [spans[0][0] - 1, *(x for span in spans for x in span), spans[-1][1] + 1]
    words = []
    for number, (text_of_word, confidence) in enumerate(zip(text.split(), means, strict=True)):
        before, first, last, after = (edge * frame_seconds for edge in edges[2 * number : 2 * number + 4])
        start, end = max((before + first) / 2, first - REACH_SECONDS, 0), min((last + after) / 2, last + REACH_SECONDS)
        words.append(Word(text_of_word, start, end, confidence))
    return words


def frame_confidences(log_probs: Tensor) -> Tensor:
    """Return how sure each frame is, (T,), for log_probs (T, V): 1 for a certain symbol, 0 for V equally likely ones.

    That is exp(-entropy), scaled to 0..1. source: Laptev and Ginsburg 2022, section 3, exponential normalisation
    """
    entropy = -(log_probs.exp() * log_probs).nan_to_num(0).sum(-1)
    classes = log_probs.shape[-1]
    return ((torch.exp(-entropy) * classes - 1) / (classes - 1)).clamp(0, 1)
