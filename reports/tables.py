"""The tables of a report, made from columns; formats are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from reports import captions
from reports.columns import MAIN, draw
from reports.entries import ColumnEntry, Entry, Table
from reports.outcomes import labels
from results.frame import Frame


def main_table(frame: Frame, registry: Sequence[ColumnEntry] = MAIN) -> Table:
    """Draw one row a method: scores with intervals, cost, measured speed-up."""
    drawn = draw(frame, registry)
    rows = tuple((Entry(label), *(column.entries[label] for column, _ in drawn)) for label in labels(frame))
    notes = [note for _, note in drawn if note]
    return Table(
        name="main",
        title="Methods under one harness",
        headings=("method", *(column.heading for column, _ in drawn)),
        rows=rows,
        caption=(*captions.smoke(frame), *captions.training(frame), *captions.timing(frame), *notes),
    )
