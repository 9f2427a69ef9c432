"""Files that people and other programs read: tables, JSON and text, whole or not there at all."""

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Tab-separated, with a line of names; the rows have like keys.

    A text that a spreadsheet could take for a formula is written with an apostrophe before it: one that begins with
    =, +, -, @, a tab or a line break, or with apostrophes and then one of these. So a reader who takes one apostrophe
    away there has the text again. Every line break becomes a newline.

    source: OWASP, CSV Injection
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(rows[0]) if rows else []
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        for cells in (names, *([row[name] for name in names] for row in rows)):
            writer.writerow([_no_formula(cell) for cell in cells])
    return path


def _no_formula(cell: Any) -> Any:
    """A cell as it may stand in a table; a number stays a number, a negative one too."""
    if not isinstance(cell, str):
        return cell
    text = re.sub(r"\r\n?", "\n", cell)  # csv would not quote \r, and a reader would end the row there
    return f"'{text}" if re.match(r"'*[=+\-@\t\n]", text) else text


def write_json(content: Any, path: Path) -> Path:
    """Indented JSON, renamed into place when it is whole."""
    return write_text(json.dumps(content, indent=2) + "\n", path)


def write_text(text: str, path: Path) -> Path:
    """Write a file that shows under its name when it is whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
    return path


@contextmanager
def written_whole(path: Path, partial: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a file that gets its name when all of it is on the disk.

    partial: its name until then, under which a killed process leaves it; None for one that no other process uses
    """
    partial = partial or path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
