"""List the utterances of a part with their errors."""

from collections.abc import Sequence
from typing import Any

from asr.metrics import Scored


def error_rows(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Return a row for each utterance, the worst first."""
    worst_first = sorted(scored, key=lambda one: (-one.words.rate, -one.characters.rate, one.id))
    return [
        {
            "id": one.id,
            "wer": round(one.words.rate, 4),
            "cer": round(one.characters.rate, 4),
            "substitutions": one.words.substitutions,
            "deletions": one.words.deletions,
            "insertions": one.words.insertions,
            "reference": one.reference,
            "hypothesis": one.hypothesis,
        }
        for one in worst_first
    ]
