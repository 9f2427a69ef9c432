"""Find the utterances that a table lists: CSV, TSV or JSON lines with the columns path and text."""

import csv
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from asr.console import console
from asr.corpora.index import Found, Rejected
from asr.errors import InputError

REQUIRED, OPTIONAL = ("path", "text"), ("id", "speaker", "part", "seconds")
LONGEST_CELL = 100_000_000  # characters; Python's csv stops at 131,072
PART = re.compile(r"\w[\w-]*")

Row = dict[str, str]
Parts = dict[str, tuple[list[Found], list[Rejected]]]


def find_utterances(file: Path, root: Path, split: Mapping[str, float], seed: int) -> Parts:
    """Return the utterances of each part, and the lines that cannot be used.

    split:  the shares of dev and test where the table has no column `part`; the rest is train. Whole speakers are dealt
            out, or utterances unless each has a speaker and there are three of them
    raises: InputError if the file cannot be read as a table with path and text
    """
    rows = _read(file)
    names = {name for row in rows.values() if isinstance(row, dict) for name in row}
    if unknown := sorted(names - {*REQUIRED, *OPTIONAL}):
        console.print(f"{file}: ignored are the columns {', '.join(map(repr, unknown))}", soft_wrap=True)
    parts: Parts = defaultdict(lambda: ([], []))
    homeless: list[Rejected] = []
    lines_of: dict[str, int] = {}
    for number, row in rows.items():
        cells = row if isinstance(row, dict) else {}
        id = cells.get("id") or os.path.splitext(cells.get("path", ""))[0]
        part = cells.get("part", "") if "part" in names else "train"
        reason = row if isinstance(row, str) else _problem(row, part, root)
        if not reason and id in lines_of:
            reason = f"its id {id} belongs to line {lines_of[id]} already"
        if reason:
            rejected = Rejected(id, file.name, f"line {number}: {reason}")
            (parts[part][1] if PART.fullmatch(part) else homeless).append(rejected)
        else:
            lines_of[id] = number
            path = os.path.relpath(os.path.join(root, cells["path"]), root)
            seconds = float(cells["seconds"]) if cells.get("seconds") else None
            parts[part][0].append(Found(id, cells.get("speaker") or None, cells["text"], path, number, seconds))
    if "part" not in names:
        return _dealt_out(*parts["train"], split, seed)
    parts[next(iter(parts), "train")][1].extend(homeless)
    return parts


def _problem(row: Row, part: str, root: Path) -> str:
    """Return why a row cannot be used; an empty string if it can."""
    for name in (*REQUIRED, *OPTIONAL):
        if re.search("[\ud800-\udfff]", row.get(name, "")):
            return f"its {name} is not UTF-8"
    for name in REQUIRED:
        if not row.get(name):
            return f"no {name}"
    path = os.path.normpath(os.path.join(root, row["path"]))
    if not path.startswith(os.path.join(root, "")) or re.search("\0|://|::", row["path"]):
        return f"path {row['path']!r} is a URL or lies outside root={root}; only files below it can be used"
    if not os.path.isfile(path):
        return f"no audio file {row['path']!r} in root={root}"
    if row.get("seconds") and not re.fullmatch(r"\d+(\.\d*)?", row["seconds"], re.ASCII):
        return f"seconds {row['seconds']!r}, must be a number such as 2.5"
    if not PART.fullmatch(part):
        return f"part {part!r}, must be a name of letters and digits such as train"
    return ""


def _dealt_out(found: list[Found], rejected: list[Rejected], split: Mapping[str, float], seed: int) -> Parts:
    """Return the utterances in train, dev and test; those rejected are counted in train."""
    speakers = sorted({one.speaker for one in found if one.speaker})
    by_speaker = len(speakers) >= 3 and all(one.speaker for one in found)
    if speakers and not by_speaker:
        console.print("Speakers may be in several parts, since some are not named or there are fewer than three")
    keys = speakers if by_speaker else sorted(one.id for one in found)
    random.Random(seed).shuffle(keys)
    counts = {role: max(1, round(split[role] * len(keys))) if split[role] else 0 for role in ("dev", "test")}
    roles = [role for role, count in counts.items() for _ in range(count)][: max(0, len(keys) - 1)]
    role_of = dict(zip(keys, roles, strict=False))
    parts: Parts = {role: ([], []) for role in dict.fromkeys(["train", *roles])}
    for one in found:
        parts[role_of.get((one.speaker or "") if by_speaker else one.id, "train")][0].append(one)
    parts["train"][1].extend(rejected)
    return parts


def _read(file: Path) -> dict[int, Row | str]:
    """Return the rows of a table by the number of their lines; a string says why a line is none."""
    if (suffix := file.suffix.lower()) not in (".csv", ".tsv", ".jsonl"):
        raise InputError(f"file={file}: it must be a .csv, .tsv or .jsonl")
    csv.field_size_limit(LONGEST_CELL)
    rows: dict[int, Row | str] = {}
    names: list[str] = []
    try:
        # Bytes that are not UTF-8 become surrogates, by which their row is rejected.
        with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                if suffix == ".jsonl":
                    rows[number] = _json_row(line)
                elif names:
                    rows[number] = _csv_row(line, suffix, names)
                else:
                    names = next(csv.reader([line.rstrip("\n")], delimiter="," if suffix == ".csv" else "\t"))
    except (OSError, csv.Error) as error:
        raise InputError(f"file={file} cannot be read: {error}; give the path of a table") from error
    names = names or sorted({name for row in rows.values() if isinstance(row, dict) for name in row})
    if missing := [name for name in REQUIRED if name not in names]:
        raise InputError(
            f"{file} has no column {' and no column '.join(missing)}, only {', '.join(map(repr, names)) or 'none'}; it "
            f"needs path and text, and may have {', '.join(OPTIONAL)}, written so and in UTF-8; a .csv is separated by "
            "commas, a .tsv by tabs"
        )
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{file} has several columns {', '.join(sorted(twice))}; name each column once")
    if not rows:
        raise InputError(f"{file} has no row below its first line; add a row for each utterance")
    return rows


def _csv_row(line: str, suffix: str, names: list[str]) -> Row | str:
    """A row is one line, so that a quote that is not closed spoils its own row only."""
    try:
        cells = next(csv.reader([line.rstrip("\n")], delimiter="," if suffix == ".csv" else "\t", strict=True))
    except csv.Error as error:
        return f"{error}: a text with quotes must stand in quotes, with its own doubled, and end on its line"
    if len(cells) != len(names):
        return f"{len(cells)} cells, must be {len(names)} as in the first line; put a text with a separator in quotes"
    return dict(zip(names, map(str.strip, cells), strict=True))


def _json_row(line: str) -> Row | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    if not isinstance(row, dict):
        return "no JSON object {...}"
    for name, value in row.items():
        if name in (*REQUIRED, *OPTIONAL) and not isinstance(value, str | int | float | None):
            return f"{name} is {type(value).__name__}, must be a string"
    return {name: str(value).strip() for name, value in row.items() if value is not None}
