"""Tables, read back as a spreadsheet reads them."""

import csv
import re
from pathlib import Path

from asr.files import write_table

FORMULAS = ["=1+1", "+a", "-a", "@a", "\t=a", "\n=a", "-1", "'=a", "''-a"]
TEXTS = ["'tis", "a=b", 'a"\t=b', "a\n=b", " =a", ""]


def read(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def test_a_spreadsheet_finds_no_formula_in_a_table_and_a_reader_every_text(tmp_path: Path) -> None:
    """The reader takes away what write_table says that it puts before a text."""
    rows = [{"=name": text, "number": -number / 2} for number, text in enumerate(FORMULAS + TEXTS)]
    names, *cells = read(write_table(rows, tmp_path / "table.tsv"))
    assert names == ["'=name", "number"]
    assert [float(cell) for _, cell in cells] == [row["number"] for row in rows]
    assert [text for text, _ in cells] == [f"'{text}" for text in FORMULAS] + TEXTS
    assert [re.sub(r"^'(?='*[=+\-@\t\n])", "", text) for text, _ in cells] == FORMULAS + TEXTS


def test_a_carriage_return_ends_no_row(tmp_path: Path) -> None:
    path = write_table([{"id": "a\r=1\r\nb", "cer": 0}, {"id": "\r=1", "cer": 1}], tmp_path / "table.tsv")
    assert read(path) == [["id", "cer"], ["a\n=1\nb", "0"], ["'\n=1", "1"]]
