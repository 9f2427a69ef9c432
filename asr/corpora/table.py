"""Find the utterances that a table lists: CSV, TSV or JSON lines with the columns path and text."""

import csv
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asr.corpora.index import Found, Rejected
from asr.errors import InputError

REQUIRED, OPTIONAL = ("path", "text"), ("id", "speaker", "part", "seconds")
LONGEST_CELL = 16_000_000  # characters; Python's csv stops at 131,072
PART = re.compile(r"\w[\w.-]*")

Parts = dict[str, tuple[list[Found], list[Rejected]]]


def find_utterances(file: Path, root: Path, split: Mapping[str, float], seed: int) -> Parts:
    """Return the utterances of each part, and the lines that cannot be used.

    split:  the shares of dev and test where the table has no column `part`; the rest is train. Whole speakers are dealt
            out, or utterances if fewer than three speakers are known
    raises: InputError if the file cannot be read as a table with path and text
    """
    rows = list(_rows(file))
    has_parts = any("part" in row for _, row in rows)
    parts: Parts = defaultdict(lambda: ([], []))
    ids: dict[str, int] = {}
    for number, row in rows:
        cells = {name: str(row[name]).strip() for name in (*REQUIRED, *OPTIONAL) if row.get(name) is not None}
        path = os.path.normpath(os.path.join(root, cells.get("path", "")))
        id = cells.get("id") or os.path.splitext(cells.get("path", ""))[0]
        part = cells.get("part", "") if has_parts else "train"
        if reason := _problem(row, cells, path, root) or (has_parts and _part_problem(part)):
            pass
        elif id in ids:
            reason = f"its id {id} belongs to line {ids[id]} already"
        else:
            ids[id] = number
            seconds = float(cells["seconds"]) if cells.get("seconds") else None
            one = Found(id, cells.get("speaker") or None, cells["text"], os.path.relpath(path, root), number, seconds)
            parts[part][0].append(one)
        if reason:
            rejected = Rejected(id, file.name, f"line {number}: {reason}")
            parts[part if PART.fullmatch(part) else "train"][1].append(rejected)
    return parts if has_parts else _dealt_out(*parts["train"], split, seed)


def _problem(row: Mapping, cells: Mapping[str, str], path: str, root: Path) -> str:
    """Return why a row cannot be used; an empty string if it can."""
    if None in row:
        return "it has more cells than the first line has names; put quotes around a text that holds the separator"
    for name in REQUIRED:
        if not cells.get(name):
            return f"empty {name}"
        if "\ufffd" in cells[name]:
            return f"its {name} is not UTF-8"
    if "\0" in path or not path.startswith(os.path.join(root, "")):
        return f"path {cells['path']} lies outside root={root}; only audio below it can be used"
    if not os.path.isfile(path):
        return f"no audio file {cells['path']} in root={root}"
    if cells.get("seconds") and not re.fullmatch(r"\d+(\.\d*)?", cells["seconds"]):
        return f"seconds={cells['seconds']}, must be a number"
    return ""


def _part_problem(part: str) -> str:
    return "" if PART.fullmatch(part) else f"part {part!r}, must be a name of letters and digits such as train"


def _dealt_out(found: list[Found], rejected: list[Rejected], split: Mapping[str, float], seed: int) -> Parts:
    speakers = sorted({one.speaker for one in found if one.speaker})
    by_speaker = len(speakers) >= 3 and all(one.speaker for one in found)
    keys = speakers if by_speaker else sorted(one.id for one in found)
    random.Random(seed).shuffle(keys)
    role_of: dict[str, str] = {}
    for role in ("dev", "test"):
        for _ in range(max(1, round(split[role] * len(keys))) if split[role] else 0):
            if len(role_of) + 1 < len(keys):  # one is left for train
                role_of[keys[len(role_of)]] = role
    parts: Parts = {"train": ([], rejected)} | {role: ([], []) for role in set(role_of.values())}
    for one in found:
        parts[role_of.get((one.speaker or "") if by_speaker else one.id, "train")][0].append(one)
    return parts


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table with the numbers of their lines."""
    if (suffix := file.suffix.lower()) not in (".csv", ".tsv", ".jsonl"):
        raise InputError(f"file={file}: it must be a .csv, .tsv or .jsonl")
    csv.field_size_limit(LONGEST_CELL)
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            if suffix == ".jsonl":
                names = None
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise InputError(
                                f"{file}, line {number}: a {type(row).__name__}, must be an object {{...}}"
                            )
                        names = names or _validate_columns(row, file)
                        yield number, row
            else:
                reader = csv.DictReader(lines, delimiter="," if suffix == ".csv" else "\t", strict=True)
                names = _validate_columns(reader.fieldnames or (), file)
                number = reader.line_num + 1
                for row in reader:
                    yield number, row
                    number = reader.line_num + 1
    except OSError as error:
        raise InputError(f"file={file} cannot be read: {error.strerror}; give the path of a table") from error
    except (csv.Error, ValueError) as error:
        raise InputError(
            f"{file}, line {number}: {error}; in CSV and TSV, put a text with quotes between quotes and double them"
        ) from error


def _validate_columns(names: Iterable[str], file: Path) -> bool:
    names = list(names)
    if missing := [name for name in REQUIRED if name not in names]:
        raise InputError(
            f"{file} has no column {' and no column '.join(missing)}, only {', '.join(map(str, names)) or 'none'}; it "
            f"needs path and text, and may have {', '.join(OPTIONAL)}"
        )
    return True
