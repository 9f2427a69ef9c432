"""Text, JSON and subtitles of a transcript."""

import json
import re
from pathlib import Path

import pytest

from asr.decoding.alignment import Word
from asr.decoding.decoder import Hypothesis
from asr.transcription.output import subtitles, write_transcript
from asr.transcription.transcriber import Transcript


def spoken(text, seconds=0.4, pause_before=()):
    words, time = [], 0.0
    for number, word in enumerate(text.split()):
        time += 2.0 if number in pause_before else 0
        words.append(Word(word, time, time + seconds, 0.9))
        time += seconds
    return words


def test_a_subtitle_has_two_lines_of_42_characters_and_7_seconds_at_most():
    words = spoken("the quick brown fox jumps over the lazy dog and runs " * 20)
    cues = list(subtitles(words))
    assert len(cues) > 5
    for start, end, lines in cues:
        assert len(lines) <= 2
        assert all(len(line) <= 42 for line in lines)
        assert end - start <= 7
    assert " ".join(" ".join(lines) for _, _, lines in cues).split() == [word.text for word in words]
    assert any(len(lines) == 2 for _, _, lines in subtitles(spoken("quickest " * 30, seconds=0.2)))


def test_a_pause_begins_a_new_subtitle():
    cues = list(subtitles(spoken("one two three four", pause_before=(2,))))
    assert [lines for _, _, lines in cues] == [["one two"], ["three four"]]


@pytest.fixture
def written(tmp_path):
    words = [Word("a<b", 0.0, 0.5, 0.91234), Word("late", 3599.9996, 3601.0, 0.5)]
    transcript = Transcript("a<b late", words, 3602.0, [Hypothesis("a<b late", -3.5)])
    write_transcript(transcript, Path("in/x.wav"), tmp_path / "sub" / "x.wav", ["txt", "json", "srt", "vtt"])
    return {path.suffix[1:]: path.read_text() for path in (tmp_path / "sub").iterdir()}


def test_every_format_is_written(written):
    assert written["txt"] == "a<b late\n"
    assert written["srt"] == ("1\n00:00:00,000 --> 00:00:00,500\na<b\n\n2\n01:00:00,000 --> 01:00:01,000\nlate\n")
    assert written["vtt"].startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.500\na&lt;b\n\n")
    assert re.fullmatch(r"WEBVTT\n(\n\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}\n.+\n)+", written["vtt"])
    content = json.loads(written["json"])
    assert content["words"][0] == {"text": "a<b", "start": 0.0, "end": 0.5, "confidence": 0.9123}
    assert content["n_best"] == [{"text": "a<b late", "score": -3.5}]
    assert (content["audio"], content["seconds"]) == ("in/x.wav", 3602.0)


def test_a_recording_without_words_has_no_subtitles(tmp_path):
    write_transcript(Transcript("", [], 1.0, []), Path("x"), tmp_path / "x", ["srt", "vtt", "txt"])
    assert (tmp_path / "x.srt").read_text() == ""
    assert (tmp_path / "x.vtt").read_text() == "WEBVTT\n"
    assert (tmp_path / "x.txt").read_text() == "\n"
