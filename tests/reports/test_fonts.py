"""Signs that DejaVu Sans lacks are taken from other fonts of the machine, and only where there are such signs."""

from __future__ import annotations

import pytest
from matplotlib.font_manager import FontProperties, findfont, get_font
from synthetic import campaign

from reports.figures import FIGURES, fonts
from reports.figures.style import files
from results.frame import from_records

BUNDLED = "STIXGeneral"  # with matplotlib


@pytest.fixture(autouse=True)
def _forget():
    fonts._families.cache_clear()
    yield
    fonts._families.cache_clear()


def signs_of(family: str) -> set[str]:
    return {chr(code) for code in get_font(findfont(FontProperties(family=[family]))).get_charmap()}


def foreign() -> str:
    """Return a sign that the bundled font has and DejaVu Sans lacks."""
    only_there = signs_of(BUNDLED) - signs_of(fonts.FIRST)
    return min(sign for sign in only_there if sign.isprintable())


def test_usual_names_need_no_font_of_the_machine(monkeypatch):
    monkeypatch.setattr(fonts, "_names_of_fonts", lambda: pytest.fail("looked at the machine's fonts"))
    assert fonts.families(["moebert[experts=4]", "Łódź ± λ −"]) == ([fonts.FIRST], "")


def test_a_sign_is_taken_from_the_first_font_that_has_it(monkeypatch):
    monkeypatch.setattr(fonts, "OTHERS", ("No Such Font", BUNDLED))
    assert fonts.families(["moebert", foreign()]) == ([fonts.FIRST, BUNDLED], "")


def test_what_no_font_has_is_named_in_one_line(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "OTHERS", ("No Such Font", BUNDLED, "Another"))
    fonts.warn_of_missing([foreign() + "\U00012345", "moebert"])
    (line,) = caplog.messages
    assert "no font here has \U00012345;" in line
    assert foreign() not in line


def test_a_figure_draws_the_sign_and_not_a_box(monkeypatch):
    monkeypatch.setattr(fonts, "OTHERS", (BUNDLED,))
    (entry,) = [entry for entry in FIGURES if entry.name == "pareto-multiply-adds"]
    ((_, drawn),) = files([entry], from_records(campaign(("teacher", foreign()))))
    assert BUNDLED.encode() in drawn["pdf"]
