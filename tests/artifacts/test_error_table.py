"""The file that keeps every scored utterance."""

import json
import math

import pytest

from asr.artifacts.error_table import read_utterances, write_utterances
from asr.errors import InputError
from asr.metrics import score


def test_what_is_written_is_read_again(tmp_path):
    scored = [
        score("a", "the cat", "the bat", speaker="7", seconds=1.5, confidences=(0.5, 1.0)),
        score("b", "x", "", speaker=None, seconds=2.0),
    ]
    path = write_utterances(scored, tmp_path / "test-clean")
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["confidence"], first["words"]) == (0.75, [1, 0, 0, 2])
    assert second["confidence"] is None
    again = read_utterances(path)
    assert [(one.id, one.words, one.speaker, one.seconds, one.confidences) for one in again] == [
        (one.id, one.words, one.speaker, one.seconds, one.confidences) for one in scored
    ]
    assert math.isnan(again[1].confidence)


@pytest.mark.parametrize("content", ["", "{}\n", "[1]\n", "nothing\n", '{"id": "a", "reference": "b"}\n'])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "utterances.jsonl"
    if content:
        path.write_text(content)
    with pytest.raises(InputError, match=r"utterances.jsonl.*asr.evaluate"):
        read_utterances(path)
