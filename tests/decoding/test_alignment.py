"""The words of a text on the frames of its most likely CTC path, and how sure the model is of each."""

import math

import pytest
import torch
import torch.nn.functional as F

from asr.data.text import Alphabet
from asr.decoding.alignment import align_words, frame_confidences

LETTERS = Alphabet(" ab")


def words_of(path, text, sureness=10.0):
    return align_words((sureness * F.one_hot(torch.tensor(path), 4).float()).log_softmax(-1), text, LETTERS, 0.04)


def test_a_word_begins_halfway_from_the_symbol_before_it():
    first, second = words_of([0, 2, 2, 0, 2, 1, 0, 0, 3, 3, 0], "aa b")
    assert (first.text, second.text) == ("aa", "b")
    assert (first.start, first.end) == pytest.approx((0.5 * 0.04, 6 * 0.04)), "half a frame where no symbol is before"
    assert (second.start, second.end) == pytest.approx((6 * 0.04, 9.5 * 0.04))


def test_a_pause_belongs_to_no_word():
    first, second = words_of([0, 2] + [0] * 20 + [1] + [0] * 20 + [3, 0], "a b")
    assert (first.start, first.end) == pytest.approx((0.02, 0.04 + 0.1))
    assert (second.start, second.end) == pytest.approx((43 * 0.04 - 0.1, 43.5 * 0.04))


def test_no_word_begins_before_the_recording():
    assert words_of([2, 0], "a")[0].start == 0


@pytest.mark.parametrize("text", ["", " ", "  "])
def test_a_text_without_words_has_none(text):
    assert align_words(torch.zeros(5, 4).log_softmax(-1), text, LETTERS, 1.0) == []


def test_spaces_around_words_are_aligned_too():
    assert [word.text for word in words_of([1, 2, 1, 0, 1, 3, 1], " a  b ")] == ["a", "b"]


def test_confidence_falls_with_entropy():
    sure, unsure = (words_of([2, 1, 3], "a b", sureness) for sureness in (9, 2))
    assert all(0 <= weak.confidence < strong.confidence <= 1 for strong, weak in zip(sure, unsure, strict=True))


def test_confidence_is_that_of_the_entropy_formula():
    """Laptev and Ginsburg 2022: 0 for a uniform distribution, 1 for a certain symbol."""
    half = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    assert frame_confidences(half.log()).tolist() == pytest.approx([0, 1, (4 / 2 - 1) / 3], abs=1e-6)
    assert math.isfinite(frame_confidences(half.log()).sum())


def test_each_symbol_of_a_word_counts_once():
    """However many frames it takes."""
    one_hot = F.one_hot(torch.tensor([2, 2, 2, 3]), 4).float()
    log_probs = (one_hot * torch.tensor([20.0, 20, 20, 1])[:, None]).log_softmax(-1)
    (word,) = align_words(log_probs, "ab", LETTERS, 1.0)
    sure, unsure = frame_confidences(log_probs)[[0, 3]].tolist()
    assert word.confidence == pytest.approx((sure + unsure) / 2)
