"""Select the utterances to train on, and say which are dropped and why."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lhotse import CutSet
from lhotse.cut import Cut

from asr.corpora.utterance import IndexedCut
from asr.data.text import Alphabet, frames_needed


@dataclass
class Dropped:
    """The utterances that are dropped for one reason."""

    ids: list[str] = field(default_factory=list)
    hours: float = 0.0

    @property
    def utterances(self) -> int:
        """How many there are."""
        return len(self.ids)


@dataclass(frozen=True)
class Selection:
    """The cuts that are kept, and by reason those that are dropped."""

    kept: CutSet
    hours: float
    dropped: dict[str, Dropped] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Utterances before the selection."""
        return len(self.kept) + sum(dropped.utterances for dropped in self.dropped.values())

    @classmethod
    def of_all(cls, cuts: Iterable[Cut]) -> "Selection":
        """Keep every cut, as for dev and test."""
        kept = list(cuts)
        return cls(CutSet.from_cuts(kept), sum(cut.duration for cut in kept) / 3600)


def select(
    cuts: Iterable[Cut],
    alphabet: Alphabet,
    output_frames: Callable[[float], int],
    max_seconds: float | None,
    max_characters: int | None,
) -> Selection:
    """Select the utterances to train on. One that is dropped for several reasons counts under the first, in this order.

    max_seconds, max_characters: an utterance that is as long or longer is dropped, by its normalised text; None drops
                   nothing. One without a character of the alphabet is dropped too
    output_frames: seconds -> the number of frames that the model outputs. Where CTC needs more, the loss is infinite
    """
    kept: list[Cut] = []
    dropped: dict[str, Dropped] = defaultdict(Dropped)
    for cut in cuts:
        text = alphabet.normalize(cut.text if isinstance(cut, IndexedCut) else cut.supervisions[0].text or "")
        seconds = cut.duration
        if max_seconds is not None and seconds >= max_seconds:
            reason = f"too long (>= {max_seconds:g} s)"
        elif max_characters is not None and len(text) >= max_characters:
            reason = f"too many characters (>= {max_characters})"
        elif not text:
            reason = "no text"
        elif (frames := output_frames(seconds)) < 2 * len(text) and frames < frames_needed(text):  # at most two each
            reason = "CTC cannot align"
        else:
            kept.append(cut)
            continue
        dropped[reason].ids.append(cut.id)
        dropped[reason].hours += seconds / 3600
    return Selection(CutSet.from_cuts(kept), sum(cut.duration for cut in kept) / 3600, dict(dropped))


def describe_dropped(selection: Selection) -> str:
    """Describe what is dropped, as in "53 (0.31 h) too long (>= 20 s)"; what CTC cannot align is named."""
    texts = []
    for reason, dropped in selection.dropped.items():
        few = reason in ("no text", "CTC cannot align")
        names = f" ({', '.join(dropped.ids[:3])}{', ...' if dropped.utterances > 3 else ''})" if few else ""
        texts.append(f"{dropped.utterances:,} ({dropped.hours:.2f} h) {reason}{names}")
    return ", ".join(texts) or "none"
