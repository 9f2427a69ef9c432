"""Write the report: one template makes report.md, with pictures/ and sounds/ beside it, and index.html in one file."""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

FOLDERS = ("pictures", "sounds")


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

    @property
    def path(self) -> str:
        """Its file beside report.md; what has no place in a file's name or a link becomes _."""
        folder = FOLDERS[not self.mime.startswith("image/")]
        name = re.sub(r"[^\w.-]+", "_", self.name)
        return f"{folder}/{name}"


class Marks:
    """Markup that Markdown lacks or that differs in the HTML page, which in_html stands for."""

    def __init__(self, in_html: bool) -> None:
        self.in_html = in_html
        self.media_shown: list[Media] = []

    def small(self, text: object) -> Markup:
        """Return a note behind a table's entry, in brackets or in small print; nothing for no text."""
        marked = in_markdown(str(text))
        return Markup((f"<small>{marked}</small>" if self.in_html else f" ({marked})") if text else "")

    def badge(self, text: str, kind: str) -> Markup:
        """Return a few words in a colour; kind: what the colour stands for, such as "supported"."""
        marked = in_markdown(text)
        kind = kind.replace(" ", "-")
        return Markup(f'<span class="badge {kind}">{marked}</span>' if self.in_html else marked)

    def code(self, text: str) -> Markup:
        """Return text as typed, in a table's entry."""
        text = " ".join(text.split()).replace("|", r"\|")  # a table's cell ends at a bar even within code
        ticks = _ticks(text, at_least=1)
        padding = " " if "`" in text else ""  # which Markdown takes away
        return Markup(f"{ticks}{padding}{text}{padding}{ticks}")

    def fence(self, text: str) -> Markup:
        """Return lines to copy, between fences that none of them can close."""
        ticks = _ticks(text, at_least=3)
        return Markup(f"{ticks}bash\n{text}\n{ticks}")

    def media(self, media: Media) -> Markup:
        """Return a link to a picture or a sound, in HTML the thing itself."""
        self.media_shown.append(media)
        is_picture = media.mime.startswith("image/")
        if not self.in_html:
            return Markup(f"{'!' if is_picture else ''}[{in_markdown(media.caption)}]({media.path})")
        source = f'src="data:{media.mime};base64,{b64encode(media.content).decode()}"'
        caption = escape(" ".join(media.caption.split()))
        shown = (
            f'<img {source} alt="{caption}">' if is_picture else f'<audio controls preload="metadata" {source}></audio>'
        )
        return Markup(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")


def write_report(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write index.html and report.md with its pictures/ and sounds/; return the files, these two first.

    What an earlier report left in pictures/ and sounds/ is removed.
    """
    in_markdown_file, in_page = Marks(in_html=False), Marks(in_html=True)
    texts = {
        folder / "index.html": _page(str(content["title"]), _rendered("report.md.j2", content, in_page)),
        folder / "report.md": _rendered("report.md.j2", content, in_markdown_file),
    }
    files: dict[Path, bytes] = {path: text.encode() for path, text in texts.items()}
    for media in in_page.media_shown:
        path = folder / media.path
        files |= {path: media.content} | ({path.with_suffix(".svg"): media.svg} if media.svg else {})
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).iterdir():
            old.unlink()
    for path, data in files.items():
        path.write_bytes(data)
    return list(files)


def _rendered(template: str, content: Mapping[str, Any], marks: Marks) -> str:
    """Render a template in which every value that is no Markup is escaped for Markdown."""
    environment = Environment(
        loader=PackageLoader("asr.reporting"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(in_markdown(str(value))),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content, marks=marks)


def _page(title: str, markdown: str) -> str:
    """Return the report as an HTML page; wide tables scroll, and headings of the second level are its contents."""
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    titles = re.findall("<h2>(.*?)</h2>", body)
    for number, heading in enumerate(titles):
        body = body.replace(f"<h2>{heading}</h2>", f'<h2 id="section-{number}">{heading}</h2>', 1)
    environment = Environment(loader=PackageLoader("asr.reporting"), autoescape=True, undefined=StrictUndefined)
    sections = [Markup(heading) for heading in titles]
    return environment.get_template("report.html.j2").render(title=title, sections=sections, body=Markup(body))


def in_markdown(text: str) -> str:
    """Return text on one line, with a backslash before what would be markup or HTML, so that it shows as it is.

    An underscore within a word and an ampersand that begins no entity are safe.
    """
    own = r"[\\`*\[\]<|~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)"
    return re.sub(own, r"\\\g<0>", re.sub(r"\s+", " ", text))


def _ticks(text: str, at_least: int) -> str:
    """Return more backticks than the text has next to each other."""
    return "`" * max(at_least, 1 + max(map(len, re.findall("`+", text)), default=0))
