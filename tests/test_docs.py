"""What the documents point to is there, and what there is they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.cli.redrawing import redrawn
from reports.figures import FIGURES

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)[)#]", text) + re.findall(r'src="([^":]+)"', text)
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_numbers_are_what_their_commands_print(document):
    text = document.read_text(encoding="utf-8")
    assert redrawn(text, ROOT) == text, f"moebench redraw docs/{document.name}"


def test_every_figure_and_every_table_of_the_gallery_is_explained():
    text = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    figures = re.findall(r"^\| ([a-z-]+) \|.*<img", text, re.MULTILINE)
    assert figures == [entry.name for entry in FIGURES]
    tables = {path.stem for path in (ROOT / "reports" / "gallery").glob("*/tables/*.csv")}
    assert {name for name in tables if f"/{name}.csv)" not in text} == set()
