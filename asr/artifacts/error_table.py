"""List the utterances of a part with their errors: a table to read, and a file that keeps all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.errors import InputError, first_line
from asr.files import write_text
from asr.metrics import Scored, score


def worst_first(scored: Sequence[Scored]) -> list[Scored]:
    """Return the utterances by WER, then CER, the highest first."""
    return sorted(scored, key=lambda one: (-one.words.rate, -one.characters.rate, one.id))


def error_rows(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Return a row for each utterance, the worst first."""
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
        for one in worst_first(scored)
    ]


def write_utterances(scored: Sequence[Scored], directory: Path) -> Path:
    """Write utterances.jsonl: a line for each utterance, with its fields and its confidence."""
    directory.mkdir(parents=True, exist_ok=True)
    records = [
        {**one._asdict(), "confidence": one.confidence if one.confidences else None}  # JSON has no nan
        for one in scored
    ]
    lines = [json.dumps(record) for record in records]
    return write_text("".join(f"{line}\n" for line in lines), directory / "utterances.jsonl")


def read_utterances(path: Path) -> list[Scored]:
    """Read utterances.jsonl; the errors are counted again from the texts.

    raises: InputError if the file cannot be read or is not one that write_utterances wrote
    """
    try:
        return parse_utterances(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; asr.train and asr.evaluate write it") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a file that asr.evaluate wrote: {first_line(error)}") from error


def parse_utterances(text: str) -> list[Scored]:
    """Return the utterances of a file that write_utterances wrote; an id that is there twice counts as last written."""
    scored = [_scored(json.loads(line)) for line in text.splitlines()]
    return list({one.id: one for one in scored}.values())


def _scored(record: dict[str, Any]) -> Scored:
    id, reference, hypothesis = (str(record[name]) for name in ("id", "reference", "hypothesis"))
    speaker = None if record["speaker"] is None else str(record["speaker"])
    known = {"speaker": speaker, "seconds": record["seconds"], "confidences": tuple(record["confidences"])}
    return score(id, reference, hypothesis, **known)
