"""Which utterances are trained on, and why the others are not."""

import pytest

from asr.corpora.manifest import Utterance, Utterances
from asr.data.selection import Selection, select
from asr.data.text import Alphabet

LETTERS = Alphabet(" abcdefghijklmnopqrstuvwxyz")


def silent(id: str, seconds: float, text: str) -> Utterance:
    """Without audio: select reads lengths and texts alone."""
    return Utterance(id, text, "", round(seconds * 16_000), 16_000)


def choose(utterances: list[Utterance], max_seconds: float | None, max_characters: int | None) -> Selection:
    """Of a model that outputs 10 frames a second."""
    table = Utterances.of(utterances)
    return select(table, LETTERS, lambda seconds: (seconds * 10).astype(int), max_seconds, max_characters)


ALL = [
    silent("kept", 1.9, "hello"),
    silent("long", 2.0, "hello"),
    silent("long and wordy", 2.0, "xy" * 15),
    silent("wordy", 1.9, "xy" * 5),
    silent("short enough", 1.9, "!!" + "XY" * 4 + "X"),
    silent("none", 1.0, ""),
    silent("marks", 1.0, "!!!"),
    silent("tight", 0.6, "hello"),
    silent("hasty", 0.5, "hello"),  # no frame for the blank between the two l
]


def test_training_cuts_fall_by_the_first_reason_and_none_is_lost() -> None:
    """The bounds themselves fall ("of >= 20 s or >= 200 characters"), and characters are of the normalised text."""
    selection = choose(ALL, max_seconds=2, max_characters=10)
    assert [one.id for one in selection.kept] == ["kept", "short enough", "tight"]
    assert {reason: dropped.ids for reason, dropped in selection.dropped.items()} == {
        "too long (>= 2 s)": ["long", "long and wordy"],
        "too many characters (>= 10)": ["wordy"],
        "no text": ["none", "marks"],
        "CTC cannot align": ["hasty"],
    }
    assert selection.total == len(ALL)
    hours = selection.hours + sum(dropped.hours for dropped in selection.dropped.values())
    assert hours == pytest.approx(sum(one.seconds for one in ALL) / 3600)
    assert selection.dropped["no text"].utterances == 2


def test_without_bounds_only_what_cannot_be_learnt_falls() -> None:
    selection = choose(ALL, max_seconds=None, max_characters=None)
    assert set(selection.dropped) == {"no text", "CTC cannot align"}
    assert selection.dropped["CTC cannot align"].ids == ["long and wordy", "hasty"]


def test_selecting_all_drops_nothing() -> None:
    selection = Selection(Utterances.of(ALL))
    assert (len(selection.kept), selection.total, selection.dropped) == (len(ALL), len(ALL), {})
    assert selection.hours == pytest.approx(sum(one.seconds for one in ALL) / 3600)
