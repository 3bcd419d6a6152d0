"""One HTML file that needs no network: summary, tables, figures, cards, and the records behind them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from reports.cards import Card
from reports.entries import Table
from reports.figures.style import GRID, INK

TEMPLATES = Path(__file__).parent / "templates"
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_THEME = {INK: "var(--ink)", GRID: "var(--line)", "#ffffff": "var(--paper)"}


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: its caption, and its SVG with the text left as text."""

    name: str
    title: str
    caption: str
    svg: bytes


def render(
    title: str,
    *,
    summary: Sequence[str],
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    cards: Sequence[Card],
    records_csv: str,
) -> str:
    """Return the page."""
    # What an XML writer built needs no second escaping.
    shown = [(drawing, Markup(inline_svg(drawing))) for drawing in drawings]  # noqa: S704
    return _page().render(
        title=title,
        summary=summary,
        tables=tables,
        drawings=shown,
        cards=cards,
        records_csv=records_csv,
        css=_source("page.css"),
    )


def inline_svg(drawing: Drawing) -> str:
    """Turn a matplotlib SVG into one that scales, follows the page's colours and shares no id with another."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(drawing.svg)  # noqa: S314
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        for name, value in element.attrib.items():
            element.set(name, _prefixed(name, _themed(value), drawing.name))
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", f"{drawing.title}. {drawing.caption}")
    return ET.tostring(root, encoding="unicode")


def _themed(value: str) -> str:
    for colour, variable in _THEME.items():
        value = value.replace(colour, variable)
    return value


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == f"{{{_XLINK}}}href" and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    return re.sub(r"url\(#", f"url(#{prefix}-", value)


@cache
def _page() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_source("page.html.j2"))


def _source(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704
