"""Write a report: Markdown, CSV, LaTeX, figures and one HTML page, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from reports import captions, formats
from reports.cards import cards
from reports.choices import choices
from reports.columns import MAIN, draw
from reports.entries import ColumnEntry, Table
from reports.figures import FIGURES
from reports.figures.drawing import Figures, useful_processes
from reports.figures.style import FigureEntry
from reports.outcomes import labels
from reports.page import Content, Drawing, render
from reports.summary import summary
from reports.tables import TABLES, main_table
from reports.tables.anatomy import anatomy_tables
from results.frame import Frame
from results.store import whole_folder

MARK = "report.md"
ANATOMY = "anatomy"  # the figure that stands in an anatomy of its own


def comparison_table(frame: Frame, registry: Sequence[ColumnEntry] = MAIN) -> pd.DataFrame:
    """Return the main table as texts, a row a method: what a terminal shows."""
    names = labels(frame)
    columns = {
        column.heading: [column.entries[name].text for name in names] for column, _ in draw(frame, registry)
    }
    return pd.DataFrame({"method": names, **columns})


def write(
    frame: Frame,
    out: Path,
    title: str,
    *,
    columns: Sequence[ColumnEntry] = MAIN,
    figures: Sequence[FigureEntry] = FIGURES,
    processes: int | None = None,
) -> list[Path]:
    """Write the whole report; an earlier report in ``out`` is replaced, anything else there is left alone.

    The same frame gives the same bytes, however many processes draw.

    Args:
        frame: What to report.
        out: The folder.
        title: First line.
        columns: Of the main table.
        figures: Which to draw.
        processes: That draw figures, this one included; None: as many as are useful for so many records.

    Returns:
        The files, ``report.html`` first.

    Raises:
        FileExistsError: Where ``out`` holds something that is not a report.
        ValueError: Where the frame has no cells.
    """
    if frame.cells.empty:
        raise ValueError("nothing to report: the frame has no cells")
    require_free(out)
    return _place(compose(frame, title, columns=columns, figures=figures, processes=processes), out)


def write_anatomy(frame: Frame, out: Path, title: str, others: Mapping[str, str]) -> list[Path]:
    """Write the anatomies of a frame alone: Markdown, CSV, LaTeX and figures, whole or not at all.

    Args:
        frame: Has an anatomy; needs no cells.
        out: As for ``write``.
        title: First line.
        others: Name -> text of files that lie beside.

    Returns:
        The files, the Markdown first.

    Raises:
        FileExistsError: Where ``out`` holds something that is not a report.
    """
    require_free(out)
    tables = anatomy_tables(frame)
    entries = [entry for entry in FIGURES if entry.name == ANATOMY]
    with Figures(entries, frame, processes=1) as figures:
        drawings, pictures = _drawings(figures, ())
    texts = {MARK: _markdown(title, (), (), tables, drawings), **_tables(tables), **others}
    return _place({name: text.encode() for name, text in texts.items()} | pictures, out)


def require_free(out: Path) -> None:
    """Raise a FileExistsError where a folder holds something that is not a report."""
    if out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise FileExistsError(f"{out}: exists and is not a report; name an empty or new folder")


def compose(
    frame: Frame,
    title: str,
    *,
    columns: Sequence[ColumnEntry] = MAIN,
    figures: Sequence[FigureEntry] = FIGURES,
    processes: int | None = None,
) -> dict[str, bytes]:
    """Make every file of the report in memory: name below the folder -> content."""
    with Figures(figures, frame, processes or useful_processes(frame)) as drawn:
        return _compose(frame, title, columns, drawn)


def _compose(frame: Frame, title: str, columns: Sequence[ColumnEntry], figures: Figures) -> dict[str, bytes]:
    tables = [main_table(frame, columns), *(table for draw_tables in TABLES for table in draw_tables(frame))]
    conditions = captions.conditions(frame)
    texts = _tables(tables)
    summed, shown, chosen, records = summary(frame), cards(frame), choices(frame), _records(frame)
    drawings, pictures = _drawings(figures, conditions)
    content = Content(
        title=title,
        summary=summed,
        conditions=conditions,
        tables=tables,
        drawings=drawings,
        cards=shown,
        choices=chosen,
        records=records,
    )
    texts = {
        "report.html": render(content),
        MARK: _markdown(title, content.summary, conditions, tables, drawings),
        **texts,
        **records,
    }
    return {name: text.encode() for name, text in texts.items()} | pictures


def _drawings(figures: Figures, conditions: Sequence[str]) -> tuple[list[Drawing], dict[str, bytes]]:
    """Return the figures for the page, and their files."""
    drawings: list[Drawing] = []
    pictures: dict[str, bytes] = {}
    for entry, saved in figures.collect():
        drawings.append(
            Drawing(entry.name, entry.title, " ".join([entry.note, *conditions]), saved["inline"])
        )
        pictures |= {f"figures/{entry.name}.{suffix}": saved[suffix] for suffix in ("pdf", "svg", "png")}
    return drawings, pictures


def _tables(tables: Sequence[Table]) -> dict[str, str]:
    texts = {}
    for table in tables:
        texts[f"tables/{table.name}.csv"] = formats.comma_separated(table)
        texts[f"tables/{table.name}.tex"] = formats.latex(table)
    return texts


def _place(documents: Mapping[str, bytes], out: Path) -> list[Path]:
    with whole_folder(out) as folder:
        for name, content in documents.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    return [out / name for name in documents]


def _markdown(
    title: str,
    sentences: Sequence[str],
    conditions: Sequence[str],
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
) -> str:
    parts = [
        f"# {formats.escape_markdown(title)}",
        "\n".join(f"- {formats.escape_markdown(sentence)}" for sentence in sentences),
        formats.escape_markdown(" ".join(conditions)),
        *(formats.markdown(table).rstrip() for table in tables),
    ]
    for drawing in drawings:
        title = formats.escape_markdown(drawing.title)
        caption = formats.escape_markdown(drawing.caption)
        parts += [f"### {title}", f"![{title}](figures/{drawing.name}.svg)", caption]
    return "\n\n".join(part for part in parts if part) + "\n"


def _records(frame: Frame) -> dict[str, str]:
    """Return every cell, and every timing where there are any, as lines of CSV."""
    cells = {"records.csv": frame.cells.drop(columns="predictions_path")}
    timings = {} if frame.latency.empty else {"timings.csv": frame.latency}
    return {
        name: table.to_csv(index=False, float_format="%.10g", lineterminator="\n")
        for name, table in (cells | timings).items()
    }
