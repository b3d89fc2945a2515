"""One self-contained HTML page of tables and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; }
summary { margin-top: 1rem; cursor: pointer; } p { max-width: 50rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; height: auto; } .wide img { max-width: none; image-rendering: pixelated; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .85rem; }
.note { color: #555; } ul.verdicts { list-style: none; padding: 0; } .verdicts li { margin: .3rem 0; }
.good::before { content: "✓"; color: #17803d; } .weak::before { content: "~"; color: #9a6700; }
.bad::before { content: "✗"; color: #b3261e; } .verdicts li::before { font-weight: bold; margin-right: .6rem; }
nav a { margin-right: 1rem; }
@media (max-width: 40rem) { table { font-size: .85rem; } td, th { padding: .2rem .35rem; } }
"""


class Page:
    """Collects the parts of the report.

    Attributes:
        images: the files by name.
    """

    def __init__(self, images: Mapping[str, bytes]) -> None:
        self.images = images
        self._parts: list[str] = []
        self._headings: list[tuple[str, str]] = []

    def add(self, part: str) -> None:
        """Adds HTML."""
        self._parts.append(part)

    def heading(self, title: str, anchor: str) -> None:
        """Begins a section."""
        self._headings.append((title, anchor))
        self.add(f'<h2 id="{anchor}">{html.escape(title)}</h2>')

    def text(self, paragraph: str) -> None:
        """Adds a paragraph of plain text."""
        self.add(f"<p>{html.escape(paragraph)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Adds a table; columns after the first that hold figures alone are set to the right."""
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        styles = [" class=figure" if i and all(map(_is_figure, column)) else "" for i, column in enumerate(columns)]
        lines = [
            "".join(f"<{kind}{style}>{html.escape(cell)}</{kind}>" for cell, style in zip(cells, styles, strict=True))
            for kind, cells in (("th", header), *(("td", row) for row in rows))
        ]
        self.add(f"<div class=wide><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>")

    def picture(self, name: str, says: str) -> None:
        """Adds an image that shrinks with the window."""
        self.add(f'<p><img alt="{html.escape(says)}" src="{self._source(name)}"></p>')

    def sheet(self, name: str, says: str) -> None:
        """Adds an image whose pixels matter: it scrolls in a narrow window."""
        self.add(f'<div class=wide><img alt="{html.escape(says)}" src="{self._source(name)}"></div>')

    def navigation(self) -> str:
        """Links to the sections."""
        return "<nav>" + "".join(f'<a href="#{a}">{html.escape(title)}</a>' for title, a in self._headings) + "</nav>"

    def body(self) -> str:
        """All that was added."""
        return "\n".join(self._parts)

    def _source(self, name: str) -> str:
        kind = name.rpartition(".")[2]
        return f"data:image/{kind};base64,{base64.b64encode(self.images[name]).decode()}"


def html_page(title: str, intro: str, page: Page) -> str:
    """The whole HTML text."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{intro}
{page.navigation()}
{page.body()}
</body></html>
"""


def _is_figure(text: str) -> bool:
    return text[:1] in "0123456789+-<" or text in ("", "none")
