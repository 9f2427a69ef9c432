"""The report as blocks, and as two files: one HTML page with everything inside, and Markdown with files beside it."""

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import ClassVar, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined


class Badge(NamedTuple):
    """A few words in a colour; kind: what the colour stands for, such as "supported"."""

    text: str
    kind: str


class Cell(NamedTuple):
    """small: in small letters below; code: as typed; badges stand in the text's place."""

    text: str
    small: str = ""
    code: bool = False
    badges: tuple[Badge, ...] = ()


class Column(NamedTuple):
    """over: what neighbouring columns have in common, shown above them."""

    name: str
    over: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"
    strong: bool = False


@dataclass(frozen=True)
class Heading:
    """Below the section's own; with the verdicts that stand beside it."""

    text: str
    level: int = 3
    badges: tuple[Badge, ...] = ()
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Table:
    """A row shorter than the columns spans the rest with its last cell."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | str]]
    kind: ClassVar[str] = "table"

    @property
    def cells(self) -> list[list[Cell]]:
        """All cells as Cell."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    @property
    def overs(self) -> list[tuple[str, int]]:
        """What stands above the columns, and over how many."""
        return [(over, len(list(columns))) for over, columns in groupby(self.columns, lambda column: column.over)]


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Media:
    """A picture or a sound: a name for its file, its bytes and what it shows.

    svg: the same picture with vectors, which is written beside it
    """

    name: str
    content: bytes = field(repr=False)
    caption: str
    mime: str = "image/png"
    svg: bytes = field(default=b"", repr=False)
    kind: ClassVar[str] = "media"

    @property
    def data_uri(self) -> str:
        """The bytes, as HTML takes them inline."""
        return f"data:{self.mime};base64,{b64encode(self.content).decode()}"

    @property
    def folder(self) -> str:
        """The folder beside report.md that holds its file."""
        return "pictures" if self.mime.startswith("image/") else "sounds"

    @property
    def path(self) -> str:
        """Its file beside report.md; what has no place in a file's name or a link becomes _."""
        name = re.sub(r"[^\w.-]+", "_", self.name)
        return f"{self.folder}/{name}"


Block = Text | Heading | Table | Code | Media


@dataclass(frozen=True)
class Section:
    """A chapter of the report; id: its anchor."""

    title: str
    blocks: Sequence[Block]

    @property
    def id(self) -> str:
        """The title as an anchor."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def write_report(title: str, sections: Sequence[Section], folder: Path) -> list[Path]:
    """index.html and report.md with its pictures/ and sounds/; what an earlier report left in these two is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("pictures", "sounds"):
        (folder / name).mkdir(exist_ok=True)
        for old in (folder / name).iterdir():
            old.unlink()
    environment = Environment(
        loader=PackageLoader("asr.reporting"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": in_markdown, "cell": in_a_markdown_cell, "fence": in_a_markdown_fence}
    paths = []
    for template, file in (("report.html.j2", "index.html"), ("report.md.j2", "report.md")):
        path = folder / file
        path.write_text(environment.get_template(template).render(title=title, sections=sections))
        paths.append(path)
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Media):
            path = folder / block.path
            path.write_bytes(block.content)
            paths.append(path)
            if block.svg:
                path.with_suffix(".svg").write_bytes(block.svg)
                paths.append(path.with_suffix(".svg"))
    return paths


def in_markdown(text: str) -> str:
    """On one line, with a backslash before what Markdown would take for markup or HTML: the text shows as it is.

    An underscore within a word and an ampersand that begins no entity are safe.
    """
    own = r"[\\`*\[\]<|~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)"
    return re.sub(own, r"\\\g<0>", " ".join(text.split()))


def in_a_markdown_cell(cell: Cell) -> str:
    """A cell's text, code or badges, and what stands small in brackets."""
    small = f" ({in_markdown(cell.small)})" if cell.small else ""
    if cell.code:
        text = " ".join(cell.text.split()).replace("|", r"\|")  # a table's cell ends at a bar even within code
        ticks = _ticks(text, at_least=1)
        padding = " " if "`" in text else ""  # which Markdown takes away
        return f"{ticks}{padding}{text}{padding}{ticks}{small}"
    return in_markdown(", ".join(badge.text for badge in cell.badges) or cell.text) + small


def in_a_markdown_fence(text: str) -> str:
    """Lines to copy, between fences that none of them can close."""
    ticks = _ticks(text, at_least=3)
    return f"{ticks}bash\n{text}\n{ticks}"


def _ticks(text: str, at_least: int) -> str:
    """More backticks than stand next to each other in the text."""
    return "`" * max(at_least, 1 + max(map(len, re.findall("`+", text)), default=0))
