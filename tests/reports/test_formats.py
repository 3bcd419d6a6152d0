"""Every format shows a name as it is, and reads back to the numbers behind the table."""

from __future__ import annotations

import csv
import html
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from reports.entries import Entry, Group, Table
from reports.formats import comma_separated, escape_latex, escape_markdown, latex, markdown
from reports.tables import main_table
from results.frame import Frame

HARD = [
    "<script>alert(1)</script>",
    "a_b & c%",
    r"\input{/etc/passwd} $x^2$ #1 ~{}",
    "a|b *bold* `code` [link](url) ![i](u)",
    "ümläut ﬁ 模型 🚀 Łódź",
    "two\nlines\tand\x00nul",
    "'quotes' \"double\" --- <!-- c --> -->",
    "",
]


def table_of(names: list[str]) -> Table:
    rows = tuple(
        (Entry(name), Entry("70.0 ± 1.0 (3)", 70.0, 69.0, 71.0, 3, note=f"why {name}")) for name in names
    )
    return Table("hard", f"Title {names[0]}", ("method", "task & score"), rows, (f"Caption {names[0]}.",))


def shown(name: str) -> str:
    return " ".join(name.split()).replace("\x00", "\ufffd")


@pytest.mark.parametrize("name", HARD)
def test_markdown_shows_any_name_as_text(name: str) -> None:
    page = MarkdownIt("gfm-like", {"linkify": False}).render(markdown(table_of([name])))
    first_cell = re.search(r"<tbody>\s*<tr>\s*<td[^>]*>(.*?)</td>", page, re.DOTALL)
    assert first_cell is not None
    assert html.unescape(first_cell[1]) == shown(name)
    assert "<script" not in page


@pytest.mark.parametrize("name", HARD)
def test_csv_reads_back(name: str) -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(table_of([name])))))
    assert rows[0]["method"] == shown(name)
    assert float(rows[0]["task & score low"]) == 69.0
    assert rows[0]["task & score note"] == f"why {shown(name)}".rstrip()


def test_csv_numbers_are_those_behind_the_texts(frame: Frame) -> None:
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(comma_separated(main_table(frame))))}
    place = main_table(frame).headings.index("reviews accuracy")
    for row in main_table(frame).rows:
        assert float(rows[row[0].text]["reviews accuracy"]) == pytest.approx(row[place].value)


def test_latex_leaves_no_sign_of_its_own_unescaped() -> None:
    text = escape_latex(r"\ { } $ & # % _ ~ ^")
    bare = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[{}$&#%_]", "", text)
    assert bare.split() == []


def test_latex_uses_booktabs_rules(frame: Frame) -> None:
    text = latex(main_table(frame))
    assert [text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == sorted(
        text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")
    )
    assert text.count(r"\\") >= len(main_table(frame).rows) + 1


def test_marked_entries_are_bold_in_every_format() -> None:
    table = Table("t", "t", ("method", "score"), ((Entry("a"), Entry("1", 1.0, marked=True)),))
    assert "**1**" in markdown(table)
    assert r"\textbf{1}" in latex(table)
    assert next(csv.DictReader(io.StringIO(comma_separated(table))))["score best"] == "1"


def test_equal_notes_share_a_letter() -> None:
    rows = tuple(
        (Entry(str(number)), Entry("x", note="same" if number < 2 else "other")) for number in range(3)
    )
    table = Table("t", "t", ("a", "b"), rows)
    assert table.notes() == {"same": "a", "other": "b"}
    assert markdown(table).count("<sup>a</sup>") == 3


def test_more_notes_than_letters_go_on_with_two() -> None:
    rows = tuple((Entry(str(number)), Entry("x", note=str(number))) for number in range(28))
    assert list(Table("t", "t", ("a", "b"), rows).notes().values())[25:] == ["z", "aa", "ab"]


def test_groups_begin_with_their_title() -> None:
    rows = ((Entry("a"), Entry("1")), (Entry("b"), Entry("2")))
    table = Table("t", "t", ("m", "s"), rows, groups={1: Group("published & cited")})
    assert (
        markdown(table).index("a ")
        < markdown(table).index("published &amp; cited")
        < markdown(table).index("| b")
    )
    assert r"\multicolumn{2}{l}{\textit{published \& cited}}" in latex(table)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("which", ["hard names", "main table", "sixty rows"])
def test_every_latex_file_compiles_by_itself(which: str, frame: Frame, tmp_path: Path) -> None:
    tables = {
        "hard names": table_of(HARD),
        "main table": main_table(frame),
        "sixty rows": table_of([f"m{n}" for n in range(60)]),
    }
    (tmp_path / "t.tex").write_text(latex(tables[which]), encoding="utf-8")
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert "Overfull \\hbox" not in run.stdout, "the table does not fit its page"


def test_markdown_escapes_leave_plain_words_alone() -> None:
    assert escape_markdown("reviews (3 seeds), 79.1 ± 0.2") == "reviews (3 seeds), 79.1 ± 0.2"
