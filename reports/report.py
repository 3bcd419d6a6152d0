"""Write a report: Markdown, CSV, LaTeX, figures and one HTML page, whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from reports import captions, formats
from reports.cards import cards
from reports.choices import choices
from reports.columns import MAIN, draw
from reports.entries import ColumnEntry
from reports.figures import FIGURES
from reports.figures.style import FigureEntry, files
from reports.outcomes import labels
from reports.page import Content, Drawing, render
from reports.summary import summary
from reports.tables import TABLES, main_table
from results.frame import Frame
from results.store import whole_folder

MARK = "report.md"


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
) -> list[Path]:
    """Write the whole report; an earlier report in ``out`` is replaced, anything else there is left alone.

    The same frame gives the same bytes of Markdown, CSV, LaTeX and HTML.

    Returns:
        The files, ``report.html`` first.

    Raises:
        FileExistsError: Where ``out`` holds something that is not a report.
        ValueError: Where the frame has no cells.
    """
    if frame.cells.empty:
        raise ValueError("nothing to report: the frame has no cells")
    if out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise FileExistsError(f"{out}: exists and is not a report; name an empty or new folder")
    documents = compose(frame, title, columns=columns, figures=figures)
    with whole_folder(out) as folder:
        for name, content in documents.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    return [out / name for name in documents]


def compose(
    frame: Frame,
    title: str,
    *,
    columns: Sequence[ColumnEntry] = MAIN,
    figures: Sequence[FigureEntry] = FIGURES,
) -> dict[str, bytes]:
    """Make every file of the report in memory: name below the folder -> content."""
    tables = [main_table(frame, columns), *(table for draw_tables in TABLES for table in draw_tables(frame))]
    conditions = captions.conditions(frame)
    drawings: list[Drawing] = []
    pictures: dict[str, bytes] = {}
    for entry, saved in files(figures, frame):
        drawings.append(
            Drawing(entry.name, entry.title, " ".join([entry.note, *conditions]), saved["inline"])
        )
        pictures |= {f"figures/{entry.name}.{suffix}": saved[suffix] for suffix in ("pdf", "svg", "png")}
    content = Content(
        title=title,
        summary=summary(frame),
        conditions=conditions,
        tables=tables,
        drawings=drawings,
        cards=cards(frame),
        choices=choices(frame),
        records_csv=_records_csv(frame),
    )
    texts = {"report.html": render(content), MARK: _markdown(content)}
    for table in tables:
        texts[f"tables/{table.name}.csv"] = formats.comma_separated(table)
        texts[f"tables/{table.name}.tex"] = formats.latex(table)
    texts["records.csv"] = content.records_csv
    return {name: text.encode() for name, text in texts.items()} | pictures


def _markdown(content: Content) -> str:
    parts = [
        f"# {formats.escape_markdown(content.title)}",
        "\n".join(f"- {formats.escape_markdown(sentence)}" for sentence in content.summary),
        formats.escape_markdown(" ".join(content.conditions)),
        *(formats.markdown(table).rstrip() for table in content.tables),
    ]
    for drawing in content.drawings:
        title = formats.escape_markdown(drawing.title)
        caption = formats.escape_markdown(drawing.caption)
        parts += [f"### {title}", f"![{title}](figures/{drawing.name}.svg)", caption]
    return "\n\n".join(part for part in parts if part) + "\n"


def _records_csv(frame: Frame) -> str:
    out = io.StringIO()
    frame.cells.drop(columns="predictions_path").to_csv(
        out, index=False, float_format="%.10g", lineterminator="\n"
    )
    return out.getvalue()
