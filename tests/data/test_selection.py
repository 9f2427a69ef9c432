"""Which utterances are trained on, and why the others are not."""

import pytest
from lhotse import MonoCut, SupervisionSegment

from asr.data.selection import Selection, select
from asr.data.text import Alphabet

LETTERS = Alphabet(" abcdefghijklmnopqrstuvwxyz")


def fake_cut(id: str, seconds: float, text: str | None) -> MonoCut:
    """Without audio: select reads lengths and texts alone."""
    return MonoCut(id, 0.0, seconds, 0, [SupervisionSegment(id, id, 0.0, seconds, 0, text)])


def choose(cuts: list[MonoCut], max_seconds: float | None, max_characters: int | None) -> Selection:
    """Of a model that outputs 10 frames a second."""
    return select(cuts, LETTERS, lambda seconds: int(seconds * 10), max_seconds, max_characters)


CUTS = [
    fake_cut("kept", 1.9, "hello"),
    fake_cut("long", 2.0, "hello"),
    fake_cut("long and wordy", 2.0, "xy" * 15),
    fake_cut("wordy", 1.9, "xy" * 5),
    fake_cut("short enough", 1.9, "!!" + "XY" * 4 + "X"),
    fake_cut("none", 1.0, None),
    fake_cut("marks", 1.0, "!!!"),
    fake_cut("tight", 0.6, "hello"),
    fake_cut("hasty", 0.5, "hello"),  # no frame for the blank between the two l
]


def test_training_cuts_fall_by_the_first_reason_and_none_is_lost() -> None:
    """The bounds themselves fall ("of >= 20 s or >= 200 characters"), and characters are of the normalised text."""
    selection = choose(CUTS, max_seconds=2, max_characters=10)
    assert [cut.id for cut in selection.kept] == ["kept", "short enough", "tight"]
    assert {reason: dropped.ids for reason, dropped in selection.dropped.items()} == {
        "too long (>= 2 s)": ["long", "long and wordy"],
        "too many characters (>= 10)": ["wordy"],
        "no text": ["none", "marks"],
        "CTC cannot align": ["hasty"],
    }
    assert selection.total == len(CUTS)
    hours = selection.hours + sum(dropped.hours for dropped in selection.dropped.values())
    assert hours == pytest.approx(sum(cut.duration for cut in CUTS) / 3600)
    assert selection.dropped["no text"].utterances == 2


def test_without_bounds_only_what_cannot_be_learnt_falls() -> None:
    selection = choose(CUTS, max_seconds=None, max_characters=None)
    assert set(selection.dropped) == {"no text", "CTC cannot align"}
    assert selection.dropped["CTC cannot align"].ids == ["long and wordy", "hasty"]


def test_selecting_all_drops_nothing() -> None:
    selection = Selection.of_all(CUTS)
    assert (len(selection.kept), selection.total, selection.dropped) == (len(CUTS), len(CUTS), {})
    assert selection.hours == pytest.approx(sum(cut.duration for cut in CUTS) / 3600)
