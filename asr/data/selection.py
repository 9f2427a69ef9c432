"""Select the utterances to train on, and say which are dropped and why."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from asr.corpora.manifest import Utterances
from asr.data.text import Alphabet, frames_needed


@dataclass(frozen=True)
class Dropped:
    """The utterances that are dropped for one reason."""

    ids: list[str]
    hours: float

    @property
    def utterances(self) -> int:
        """Return how many there are."""
        return len(self.ids)


@dataclass(frozen=True)
class Selection:
    """The utterances that are kept (all, unless a reason is given), and by reason those that are dropped."""

    kept: Utterances
    dropped: dict[str, Dropped] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """Return the hours of audio that are kept."""
        return self.kept.hours

    @property
    def total(self) -> int:
        """Return the number of utterances before the selection."""
        return len(self.kept) + sum(dropped.utterances for dropped in self.dropped.values())


def select(
    utterances: Utterances,
    alphabet: Alphabet,
    output_frames: Callable[[np.ndarray], np.ndarray],
    max_seconds: float | None,
    max_characters: int | None,
) -> Selection:
    """Select the utterances to train on. One that is dropped for several reasons counts under the first, in this order.

    max_seconds, max_characters: an utterance that is as long or longer is dropped, by its normalised text; None drops
                   nothing. One without a character of the alphabet is dropped too
    output_frames: seconds -> the number of frames that the model outputs. Where CTC needs more, the loss is infinite
    """
    seconds, texts = utterances.seconds, utterances.table["text"]
    lengths = (len(alphabet.normalize(text)) for chunk in texts.chunks for text in chunk.to_pylist())
    characters = np.fromiter(lengths, int, len(utterances))
    frames = output_frames(seconds)
    too_short = frames < characters
    for row in np.flatnonzero((frames < 2 * characters) & ~too_short):  # a symbol needs two frames at most
        too_short[row] = frames[row] < frames_needed(alphabet.normalize(texts[row].as_py()))
    reasons = {
        f"too long (>= {max_seconds:g} s)" if max_seconds else "": seconds >= (max_seconds or np.inf),
        f"too many characters (>= {max_characters})": characters >= (max_characters or np.inf),
        "no text": characters == 0,
        "CTC cannot align": too_short,
    }
    kept = np.ones(len(utterances), bool)
    dropped = {}
    for reason, concerned in reasons.items():
        if (now := kept & concerned).any():
            ids = utterances.table["id"].filter(pa.array(now)).to_pylist()
            dropped[reason] = Dropped(ids, float(seconds[now].sum()) / 3600)
            kept &= ~concerned
    return Selection(utterances.filter(kept), dropped)


def describe_dropped(selection: Selection) -> str:
    """Describe what is dropped, as in "53 (0.31 h) too long (>= 20 s)"; what CTC cannot align is named."""
    texts = []
    for reason, dropped in selection.dropped.items():
        few = reason in ("no text", "CTC cannot align")
        names = f" ({', '.join(dropped.ids[:3])}{', ...' if dropped.utterances > 3 else ''})" if few else ""
        texts.append(f"{dropped.utterances:,} ({dropped.hours:.2f} h) {reason}{names}")
    return ", ".join(texts) or "none"
