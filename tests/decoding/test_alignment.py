"""The words of a text on the frames of its most likely CTC path."""

import pytest
import torch
import torch.nn.functional as F

from asr.data.text import Alphabet
from asr.decoding.alignment import align_words

LETTERS = Alphabet(" ab")


def test_words_lie_where_their_symbols_are():
    path = torch.tensor([0, 2, 2, 0, 2, 1, 0, 0, 3, 3, 0])  # "aa b"
    log_probs = (10 * F.one_hot(path, 4).float()).log_softmax(-1)
    first, second = align_words(log_probs, "aa b", LETTERS, frame_seconds=0.5)
    assert (first.text, first.start, first.end) == ("aa", 0.5, 2.5)
    assert (second.text, second.start, second.end) == ("b", 4.0, 5.0)
    assert first.confidence > 0.99


@pytest.mark.parametrize("text", ["", " ", "  "])
def test_a_text_without_words_has_none(text):
    assert align_words(torch.zeros(5, 4).log_softmax(-1), text, LETTERS, 1.0) == []


def test_confidence_falls_with_entropy():
    logits = F.one_hot(torch.tensor([2, 1, 3]), 4).float()
    sure, unsure = (align_words((s * logits).log_softmax(-1), "a b", LETTERS, 1.0) for s in (9, 2))
    assert all(0 <= weak.confidence < strong.confidence <= 1 for strong, weak in zip(sure, unsure, strict=True))
