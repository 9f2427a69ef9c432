"""Write the report: one template makes report.md, with pictures/ and sounds/ beside it, and index.html in one file."""

import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup


def write_report(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write index.html and report.md; return them and the pictures and sounds that are in the folder already.

    content: what report.md.j2 shows
    """
    page, markdown = folder / "index.html", folder / "report.md"
    folder.mkdir(parents=True, exist_ok=True)
    page.write_text(_page(_rendered(content, folder, html=True)))
    markdown.write_text(_rendered(content, folder, html=False))
    return [page, markdown, *sorted(folder.glob("pictures/*")), *sorted(folder.glob("sounds/*"))]


def _rendered(content: Mapping[str, Any], folder: Path, html: bool) -> str:
    """Render the report as Markdown, in which every value that is no Markup is escaped.

    html: whether to put in elements of HTML that Markdown lacks: coloured words, small print, pictures and sounds
    """
    environment = Environment(
        loader=PackageLoader("asr.reporting"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(in_markdown(str(value))),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": _code,
        "fence": _fence,
        "base64": lambda path: Markup(b64encode((folder / path).read_bytes()).decode()),
    }
    return environment.get_template("report.md.j2").render(content, html=html)


def _page(markdown: str) -> str:
    """Return the report as an HTML page; wide tables scroll, and headings of the second level are its contents."""
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    titles = re.findall("<h2>(.*?)</h2>", body)
    for number, heading in enumerate(titles):
        body = body.replace(f"<h2>{heading}</h2>", f'<h2 id="section-{number}">{heading}</h2>', 1)
    return render_page("report.html.j2", sections=[Markup(heading) for heading in titles], body=Markup(body))


def render_page(template: str, **content: Any) -> str:
    """Return a page of HTML from a template, in which every value that is no Markup is escaped."""
    environment = Environment(
        loader=PackageLoader("asr.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)


def in_markdown(text: str) -> str:
    """Return text on one line, with a backslash before what would be markup or HTML, so that it shows as it is.

    An underscore within a word and an ampersand that begins no entity are safe.
    """
    own = r"[\\`*\[\]<|~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)"
    return re.sub(own, r"\\\g<0>", re.sub(r"\s+", " ", text))


def _code(text: str) -> Markup:
    """Return text as typed, in a table's entry."""
    text = " ".join(text.split()).replace("|", r"\|")  # a table's cell ends at a bar even within code
    ticks = _ticks(text, at_least=1)
    padding = " " if "`" in text else ""  # which Markdown takes away
    return Markup(f"{ticks}{padding}{text}{padding}{ticks}")


def _fence(text: str) -> Markup:
    """Return lines to copy, between fences that none of them can close."""
    ticks = _ticks(text, at_least=3)
    return Markup(f"{ticks}bash\n{text}\n{ticks}")


def _ticks(text: str, at_least: int) -> str:
    """Return more backticks than the text has next to each other."""
    return "`" * max(at_least, 1 + max(map(len, re.findall("`+", text)), default=0))
