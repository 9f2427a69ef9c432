"""The alphabet decides what a reference is: a mistake here makes every WER wrong."""

import pytest

from asr.data.text import Alphabet, frames_needed
from asr.errors import InputError

LETTERS = Alphabet(" abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize(
    ("raw", "normalized"),
    [
        ("HELLO WORLD", "hello world"),
        ("LYNDE'S  HOLLOW, 1876\n", "lyndes hollow"),  # as published: dropped, not replaced by a space
        ("\tTwo\u00a0words ", "two words"),
        ("ÉLAN", "lan"),
        ("42", ""),
    ],
)
def test_text_is_normalised_as_published(raw, normalized):
    assert LETTERS.normalize(raw) == normalized


def test_ids_leave_zero_to_the_blank_and_come_back():
    assert LETTERS.size == 28
    assert LETTERS.encode(" az") == [1, 2, 27]
    assert LETTERS.decode(LETTERS.encode("the end")) == "the end"


def test_a_larger_alphabet_keeps_apostrophes():
    assert Alphabet(" 'abcdefghijklmnopqrstuvwxyz").normalize("DON'T") == "don't"


@pytest.mark.parametrize("symbols", ["", " aba", " ABC", "abc", " ab\t", "\u00a0ab"])
def test_alphabets_that_cannot_work_are_refused(symbols):
    with pytest.raises(InputError, match="alphabet"):
        Alphabet(symbols)


@pytest.mark.parametrize(("text", "frames"), [("", 0), ("a", 1), ("abc", 3), ("aab", 4), ("aaa", 5)])
def test_ctc_needs_a_blank_between_equal_symbols(text, frames):
    assert frames_needed(text) == frames
