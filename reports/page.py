"""One HTML file that needs no network: summary, tables, figures, cards, and the records behind them."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from reports.cards import Card
from reports.entries import Table
from reports.figures.style import GRID, INK

TEMPLATES = Path(__file__).parent / "templates"
SCALE = 1.6  # pixels of the page a point of the figure
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


@dataclass(frozen=True)
class Content:
    """What stands on a page.

    Attributes:
        summary: What a reader gets in ten seconds.
        conditions: What all numbers depend on.
        choices: Tasks and methods to switch on and off, and the points of the interactive plot.
        records: File name -> one line a record, its id first; offered for download and shown one by one.
    """

    title: str
    summary: Sequence[str]
    conditions: Sequence[str]
    tables: Sequence[Table]
    drawings: Sequence[Drawing]
    cards: Sequence[Card]
    choices: Mapping[str, Any]
    records: Mapping[str, str]


def render(content: Content) -> str:
    """Return the page; its policy lets nothing run but its own script and nothing load at all."""
    script = _source("page.js")
    # What an XML writer built needs no second escaping.
    drawn = [(drawing, Markup(inline_svg(drawing))) for drawing in content.drawings]  # noqa: S704
    return _page().render(
        page=content,
        drawn=drawn,
        card_of={card.label: number for number, card in enumerate(content.cards)},
        downloads={name: base64.b64encode(text.encode()).decode() for name, text in content.records.items()},
        css=_source("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
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
    del root.attrib["height"]
    root.set("width", f"{SCALE * float(root.attrib['width'].removesuffix('pt')):.0f}")
    root.set("role", "img")
    root.set("aria-label", drawing.title)
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
