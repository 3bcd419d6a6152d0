"""A report is written whole or not at all, and the same records give the same bytes."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import ENVIRONMENT, campaign, cell, latency

from reports import write
from reports.figures import FIGURES
from reports.figures.drawing import useful_processes
from reports.figures.style import FigureEntry, paper_style
from results.frame import Frame, from_records


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def report(frame: Frame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report"
    write(frame, out, "A title")
    return out


def test_every_format_and_figure_is_there(report: Path) -> None:
    names = set(contents(report))
    assert {"report.html", "report.md", "tables/main.csv", "tables/main.tex", "records.csv"} <= names
    assert {
        f"figures/{name}.{kind}" for name in ("pareto", "training") for kind in ("pdf", "svg", "png")
    } <= names


def test_the_files_that_are_returned_are_the_files_that_are_there(frame: Frame, tmp_path: Path) -> None:
    written = write(frame, tmp_path / "r", "A title", figures=())
    assert written[0] == tmp_path / "r" / "report.html"
    assert sorted(written) == sorted(file for file in (tmp_path / "r").rglob("*") if file.is_file())


def test_the_same_records_in_another_order_give_the_same_bytes(report: Path, tmp_path: Path) -> None:
    again = from_records(reversed(campaign()), environments={ENVIRONMENT.id: ENVIRONMENT})
    write(again, tmp_path / "again", "A title")
    first, second = contents(report), contents(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_other_processes_draw_the_same_bytes(frame: Frame, report: Path, tmp_path: Path) -> None:
    write(frame, tmp_path / "r", "A title", processes=2)
    first, second = contents(report), contents(tmp_path / "r")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_figure_that_fails_in_another_process_fails_the_report(frame: Frame, tmp_path: Path) -> None:
    def broken(frame: Frame) -> None:
        raise ZeroDivisionError("drawn elsewhere")

    entries = [FigureEntry(f"broken-{number}", "", "", broken) for number in range(6)]
    with pytest.raises(ZeroDivisionError, match="drawn elsewhere"):
        write(frame, tmp_path / "r", "A title", figures=entries, processes=2)
    assert list(tmp_path.iterdir()) == []


def test_a_lookup_that_fails_while_drawing_is_no_end_of_the_figures(frame: Frame, tmp_path: Path) -> None:
    def broken(frame: Frame) -> None:
        raise IndexError("in the drawing")

    with pytest.raises(IndexError, match="in the drawing"):
        write(frame, tmp_path / "r", "A title", figures=[FigureEntry("broken", "", "", broken)])


def test_only_many_records_are_worth_another_process(frame: Frame) -> None:
    assert useful_processes(frame) == 1


def test_an_earlier_report_is_replaced_whole(frame: Frame, tmp_path: Path) -> None:
    write(frame, tmp_path / "r", "Old", figures=())
    (tmp_path / "r" / "figures").mkdir()
    (tmp_path / "r" / "figures" / "gone.svg").write_text("stale")
    write(frame, tmp_path / "r", "New", figures=())
    assert not (tmp_path / "r" / "figures" / "gone.svg").exists()
    assert (tmp_path / "r" / "report.md").read_text().startswith("# New")


def test_a_folder_that_is_not_a_report_is_left_alone(frame: Frame, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a report"):
        write(frame, tmp_path, "A title", figures=())
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no cells"):
        write(from_records([]), tmp_path / "r", "A title")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_drawing_keeps_the_earlier_report(frame: Frame, tmp_path: Path) -> None:
    def broken(frame: Frame) -> None:
        raise ZeroDivisionError

    write(frame, tmp_path / "r", "Old", figures=())
    before = contents(tmp_path / "r")
    with pytest.raises(ZeroDivisionError):
        write(frame, tmp_path / "r", "New", figures=(FigureEntry("broken", "", "", broken),))
    assert contents(tmp_path / "r") == before
    assert [file.name for file in tmp_path.iterdir()] == ["r"]


class Page(HTMLParser):
    """Collects what a browser would do with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def test_the_page_asks_for_nothing_from_outside(report: Path) -> None:
    for tag, attributes in parsed(report / "report.html").tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in (report / "report.html").read_text()


def test_ids_on_the_page_are_unique_and_references_find_theirs(report: Path) -> None:
    tags = parsed(report / "report.html").tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        reference = attributes.get("xlink:href") or attributes.get("href") or ""
        if reference.startswith("#"):
            assert reference[1:] in ids


def test_every_number_leads_to_records_that_the_page_holds(report: Path) -> None:
    wanted = {
        one
        for _, attributes in parsed(report / "report.html").tags
        for one in (attributes.get("data-cells") or "").split()
    }
    cells, timings = (
        {line.partition(",")[0] for line in (report / name).read_text(encoding="utf-8").splitlines()[1:]}
        for name in ("records.csv", "timings.csv")
    )
    assert {one.id for one in campaign()} == wanted == cells | timings


HARD = ["<script>alert(1)</script>", "a_b & c%", "$x$ \\frac", "名前 🚀", 'x" onload="y']


def test_any_name_of_a_method_or_task_is_shown_as_text(tmp_path: Path) -> None:
    cells = [cell(name, task=task) for name in HARD for task in HARD[:2]]
    write(from_records([*cells, *map(latency, cells)]), tmp_path / "r", HARD[0])
    page = parsed(tmp_path / "r" / "report.html")
    assert "script" not in [tag for tag, attributes in page.tags if "src" in attributes]
    assert [tag for tag, attributes in page.tags if "onload" in attributes] == []
    assert page.text.count(HARD[0]) >= 5  # title twice, column, row, card
    for name in HARD[1:]:
        assert page.text.count(name) >= 2  # row, card


POOR = {
    "one seed": campaign(seeds=(1,)),
    "one method": [cell("only")],
    "nothing finished": [cell(status="failed", reason="no memory")],
    "no timings": campaign()[:15],
    "two environments": [
        *(pair := [cell("finetune"), cell("distilbert")]),
        latency(pair[0]),
        latency(pair[1], environment="elsewhere"),
    ],
}


@pytest.mark.parametrize("case", POOR)
def test_a_poor_campaign_still_makes_tables_and_figures(case: str, tmp_path: Path) -> None:
    frame = from_records(POOR[case])
    write(frame, tmp_path / "r", case, figures=())
    assert (tmp_path / "r" / "report.html").stat().st_size > 3000
    with paper_style():
        drawn = [figure for entry in FIGURES if (figure := entry.draw(frame)) is not None]
    for figure in drawn:
        figure.draw_without_rendering()
    assert bool(drawn) == (case != "nothing finished")
