"""Count word and character errors, by jiwer. No other module counts them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import jiwer
import numpy as np


class ErrorCounts(NamedTuple):
    """Edits that turn a reference into a hypothesis; `length` is that of the reference, in words or characters."""

    substitutions: int
    deletions: int
    insertions: int
    length: int

    @property
    def rate(self) -> float:
        """Edits over the reference's length. An empty reference counts as one symbol long, so the rate stays finite."""
        return (self.substitutions + self.deletions + self.insertions) / max(1, self.length)


class Scored(NamedTuple):
    """What was said in an utterance, what was recognised, and the errors in it.

    speaker:     None if it is unknown
    seconds:     of audio; nan if unknown
    confidences: of each word of the hypothesis, from 0 to 1; empty if they were not computed
    """

    id: str
    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    speaker: str | None = None
    seconds: float = math.nan
    confidences: tuple[float, ...] = ()

    @property
    def confidence(self) -> float:
        """Return the mean confidence of the words; nan if there is none."""
        return sum(self.confidences) / len(self.confidences) if self.confidences else math.nan


def score(id: str, reference: str, hypothesis: str, **known: Any) -> Scored:
    """Count the errors of an utterance; both texts are normalised already. known: further fields of Scored."""
    words = _count(jiwer.process_words, reference, hypothesis)
    characters = _count(jiwer.process_characters, reference, hypothesis)
    return Scored(id, reference, hypothesis, words, characters, **known)


def _count(process: Callable, reference: str, hypothesis: str) -> ErrorCounts:
    edits = process(reference, hypothesis)
    return ErrorCounts(
        edits.substitutions, edits.deletions, edits.insertions, edits.hits + edits.substitutions + edits.deletions
    )


def align(one: Scored) -> list[tuple[str, str]]:
    """Return the pairs (word of the reference, word of the hypothesis) whose differences `one.words` counts.

    A deleted word is beside "", and so is an inserted one.
    """
    edits = jiwer.process_words(one.reference, one.hypothesis)
    (reference,), (hypothesis,) = edits.references, edits.hypotheses
    return [
        pair
        for chunk in edits.alignments[0]
        for pair in zip_longest(
            reference[chunk.ref_start_idx : chunk.ref_end_idx],
            hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx],
            fillvalue="",
        )
    ]


@dataclass(frozen=True)
class ErrorRates:
    """Errors of a set of utterances, both ways: of the corpus (the field's) and the mean of utterances (the writeup's).

    words, characters: summed counts; their `rate` is the corpus rate
    mean_wer, mean_cer: mean over utterances of each utterance's rate
    confidence_auroc, confidence_ece: of the hypotheses' words, see confidence_quality; None where they mean nothing
    """

    utterances: int
    words: ErrorCounts
    characters: ErrorCounts
    mean_wer: float
    mean_cer: float
    confidence_auroc: float | None = None
    confidence_ece: float | None = None

    @classmethod
    def of(cls, scored: Sequence[Scored]) -> "ErrorRates":
        """Sum up the errors of utterances; of none at all, every count and rate is 0."""
        n = max(1, len(scored))
        return cls(
            len(scored),
            _sum([one.words for one in scored]),
            _sum([one.characters for one in scored]),
            sum(one.words.rate for one in scored) / n,
            sum(one.characters.rate for one in scored) / n,
            *confidence_quality(scored),
        )

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON can hold, from which `from_json` makes the same again."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "ErrorRates":
        """Return what `to_json` was called on."""
        return cls(**stored | {name: ErrorCounts(*stored[name]) for name in ("words", "characters")})

    def as_metrics(self) -> dict[str, float]:
        """Return the rates and counts under the names by which they are logged."""
        confidence = {"confidence_auroc": self.confidence_auroc, "confidence_ece": self.confidence_ece}
        return {
            "wer": self.words.rate,
            "cer": self.characters.rate,
            "mean_wer": self.mean_wer,
            "mean_cer": self.mean_cer,
            "word_substitutions": self.words.substitutions,
            "word_deletions": self.words.deletions,
            "word_insertions": self.words.insertions,
            "words": self.words.length,
            **{name: value for name, value in confidence.items() if value is not None},
        }


def confidence_quality(scored: Sequence[Scored]) -> tuple[float | None, float | None]:
    """Return how well confidence tells right words from wrong ones: its AUROC, and its expected calibration error.

    A word of a hypothesis is right if the alignment finds it equal to one of the reference. AUROC is the probability
    that a right word has a higher confidence than a wrong one; ECE the mean distance of confidence from accuracy over
    15 bins of equally many words. Both are None without confidences, AUROC also unless there are right and wrong words.
    """
    words = [
        (confidence, spoken == written)
        for one in scored
        if one.confidences
        for confidence, (spoken, written) in zip(one.confidences, (p for p in align(one) if p[1]), strict=True)
    ]
    confidences, is_right = np.array([w[0] for w in words]), np.array([w[1] for w in words], dtype=bool)
    if not words:
        return None, None
    bins = np.array_split(confidences.argsort(kind="stable"), 15)
    ece = sum(len(one) * abs(confidences[one].mean() - is_right[one].mean()) for one in bins if len(one)) / len(words)
    if is_right.all() or not is_right.any():
        return None, float(ece)
    right, wrong = confidences[is_right], np.sort(confidences[~is_right])
    ranks = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
    return float(ranks.mean() / 2 / len(wrong)), float(ece)


def _sum(counts: Sequence[ErrorCounts]) -> ErrorCounts:
    return ErrorCounts(*(sum(column) for column in zip(*counts, strict=True))) if counts else ErrorCounts(0, 0, 0, 0)
