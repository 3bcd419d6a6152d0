"""The main table: one row a method."""

from __future__ import annotations

from collections.abc import Sequence

from reports import captions
from reports.columns import MAIN, draw
from reports.comparisons import compare
from reports.entries import ColumnEntry, Entry, Table
from reports.outcomes import evaluation_splits, labels, tasks
from results.frame import Frame


def main_table(frame: Frame, registry: Sequence[ColumnEntry] = MAIN) -> Table:
    """Draw scores with intervals, measured speed-up and cost."""
    drawn = draw(frame, registry)
    rows = tuple((Entry(label), *(column.entries[label] for column, _ in drawn)) for label in labels(frame))
    notes = [note for _, note in drawn if note]
    return Table(
        name="main",
        title="Methods under one harness",
        headings=("method", *(column.heading for column, _ in drawn)),
        rows=rows,
        caption=tuple(dict.fromkeys((*captions.conditions(frame), *notes, marks_note(frame)))),
        column_tasks=("", *(column.task for column, _ in drawn)),
    )


def marks_note(frame: Frame) -> str:
    """Say what bold means in a table of scores, or why nothing is bold."""
    marked = any(
        compare(frame, task, split).tied for task in tasks(frame) for split in evaluation_splits(frame, task)
    )
    return captions.BOLD if marked else captions.NOT_TESTED
