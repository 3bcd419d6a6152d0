"""Documents with numbers from records: drawn anew, and never by a command that does more than reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli.redrawing import redrawn
from bench.errors import UserError

ROOT = Path(__file__).parents[2]
COMMAND = (
    "contrast results/campaigns/ablation-routing moebert[routing=gate-token] 'moebert[routing=hash-random]'"
)


def test_what_stands_below_a_command_is_what_it_prints(moebench, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    document = tmp_path / "findings.md"
    document.write_text(
        f"# Claims\n\n<!-- moebench {COMMAND} --markdown -->\nold\n<!-- end -->\n\nThe end.\n"
    )
    code, shown, said = moebench("redraw", document)
    assert (code, shown) == (0, f"{document}: redrawn\n"), said
    text = document.read_text()
    assert "old" not in text
    assert "| rotten-tomatoes, validation | accuracy |" in " ".join(text.split())
    assert text.endswith("<!-- end -->\n\nThe end.\n")
    assert moebench("redraw", document)[1] == f"{document}: as it was\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "run quickstart",
            "moebench run quickstart: a document can only have drawn: compare, contrast, table",
        ),
        ("table nowhere main", "moebench table nowhere main: nowhere: "),
    ],
)
def test_a_command_that_writes_or_fails_is_refused(command, message):
    with pytest.raises(UserError, match=message):
        redrawn(f"<!-- moebench {command} -->\n<!-- end -->", ROOT)


def test_text_without_marks_is_left_alone():
    text = "<!-- moebench --> and <!-- end -->, `moebench run quickstart`\n"
    assert redrawn(text, ROOT) == text


def test_a_table_is_printed_by_its_name(moebench, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, shown, _ = moebench("table", "results/campaigns/quickstart", "main", "--search", "moebert")
    assert code == 0
    assert shown.splitlines()[2].startswith("moebert ")
    code, _, said = moebench("contrast", "results/campaigns/quickstart", "moebrt", "teacher")
    assert (code, "did you mean 'moebert'" in said) == (2, True)
