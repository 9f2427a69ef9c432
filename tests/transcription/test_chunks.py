"""Recordings are cut at pauses; where there is none, chunks overlap and each word is taken once."""

from itertools import pairwise

import numpy as np
import pytest

from asr.decoding.alignment import Word
from asr.transcription.chunks import Chunk, cut
from asr.transcription.transcriber import join_words

RATE = 1000


def noise(seconds, level=1.0):
    return np.random.default_rng(0).normal(0, level, int(seconds * RATE)).astype(np.float32)


def test_a_short_recording_is_one_chunk():
    (chunk,) = cut([noise(3), noise(4)], RATE, longest=10)
    assert (len(chunk.samples), chunk.start, chunk.overlap) == (7 * RATE, 0, 0)


def test_chunks_are_cut_in_the_middle_of_a_pause():
    recording = np.concatenate([noise(7), noise(0.5, 0.01), noise(8)])
    first, second = cut([recording], RATE, longest=10)
    assert second.start == pytest.approx(7.25, abs=0.15)
    assert second.overlap == 0
    assert np.array_equal(np.concatenate([first.samples, second.samples]), recording)


def test_chunks_overlap_where_there_is_no_pause():
    recording = noise(40)
    chunks = list(cut([recording], RATE, longest=10))
    assert len(chunks) > 4
    assert all(len(chunk.samples) <= 10 * RATE for chunk in chunks)
    for before, after in pairwise(chunks):
        assert after.overlap == 2
        end = round(before.start * RATE) + len(before.samples)
        assert end - round(after.start * RATE) == 2 * RATE
    for chunk in chunks:
        place = round(chunk.start * RATE)
        assert np.array_equal(chunk.samples, recording[place : place + len(chunk.samples)])
    assert len(chunks[-1].samples) >= 2 * RATE, "too little to be normalised by itself is never left"


def test_the_blocks_in_which_a_recording_is_read_change_nothing():
    recording = np.concatenate([noise(9), noise(0.4, 0.01), noise(30)])
    whole = list(cut([recording], RATE, longest=10))
    pieces = list(cut(np.array_split(recording, 77), RATE, longest=10))
    assert [(one.start, one.overlap, len(one.samples)) for one in whole] == [
        (one.start, one.overlap, len(one.samples)) for one in pieces
    ]


def test_no_samples_are_an_empty_chunk():
    (chunk,) = cut([], RATE)
    assert len(chunk.samples) == 0


def words(*times):
    return [Word(text, start, end, 1.0) for text, start, end in times]


def test_each_word_of_an_overlap_is_taken_once():
    said = words(("the", 7.0, 7.6), ("seam", 8.5, 9.2), ("is", 9.3, 9.5))  # "is" lies beyond the seam at 9 s
    found = words(("m", 8.0, 8.1), ("seam", 8.6, 9.3), ("is", 9.35, 9.6), ("here", 9.7, 9.9))
    joined = join_words(said, found, Chunk(np.zeros(1), 8.0, 2.0))
    assert [word.text for word in joined] == ["the", "seam", "is", "here"]


def test_a_word_whose_times_differ_across_the_seam_is_neither_lost_nor_doubled():
    for a, b in ((8.95, 9.05), (9.05, 8.95)):
        said, found = (
            words(("x", 8, 8.5), ("seam", a - 0.3, a + 0.3)),
            words(("seam", b - 0.3, b + 0.3), ("y", 9.5, 9.8)),
        )
        assert [word.text for word in join_words(said, found, Chunk(np.zeros(1), 8.0, 2.0))] == ["x", "seam", "y"]


def test_at_a_pause_all_words_are_taken():
    said, found = words(("a", 0, 1)), words(("b", 1, 2))
    assert join_words(said, found, Chunk(np.zeros(1), 1.0, 0.0)) == said + found


def test_a_long_recording_is_cut_at_its_first_pauses_to_its_end():
    pause = noise(0.5, 0.01)
    recording = np.concatenate([part for _ in range(6) for part in (noise(3), pause)])
    chunks = list(cut([recording], RATE, longest=10))
    assert [chunk.start for chunk in chunks] == pytest.approx([0, 3.25, 6.75, 10.25, 13.75, 17.25], abs=0.2)
    assert np.array_equal(np.concatenate([chunk.samples for chunk in chunks]), recording)
