"""What stands in one cell of a table, and the columns and tables that entries make up; no format is known here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from reports.statistics import Estimate
from results.frame import Frame

DASH = "—"


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        text: What a reader sees; plain text, never markup.
        value: The number behind it, in the unit of the heading: CSV and sorting use it.
        low: Lower end of its interval.
        high: Upper end.
        n: Number of values behind it.
        note: Why it is not a plain number, or what to know about it; becomes a footnote.
        marked: In the group of the best: the best, or not told apart from it by the paired test.
        cells: Ids of the records that it was drawn from: cells, or timings.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""
    marked: bool = False
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A heading and its entries by the label of the method; ``task`` where it speaks of one alone."""

    heading: str
    entries: Mapping[str, Entry]
    task: str = ""


@dataclass(frozen=True)
class ColumnEntry:
    """One entry of the registry of columns.

    Attributes:
        name: Key in the registry.
        note: What the caption says about it.
        columns: Draws them from a frame: none where it has nothing of the kind, several for several tasks.
    """

    name: str
    note: str
    columns: Callable[[Frame], list[Column]]


@dataclass(frozen=True)
class Group:
    """The title of a block of rows; ``task`` where the block speaks of one alone."""

    title: str
    task: str = ""


@dataclass(frozen=True)
class Table:
    """A table before any format.

    Attributes:
        name: Stem of its files.
        title: One line.
        headings: One a column; the first is the row's name.
        rows: Entries in the order of the headings.
        caption: Sentences that state conditions and conventions.
        groups: Row number -> the block that begins there.
        column_tasks: The task of each column, empty where it speaks of several; () for none at all.
    """

    name: str
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    caption: tuple[str, ...] = ()
    groups: Mapping[int, Group] = field(default_factory=dict)
    column_tasks: tuple[str, ...] = ()

    def blocks(self) -> list[tuple[Group | None, tuple[tuple[Entry, ...], ...]]]:
        """Return the rows by block; one block without a title where there are no groups."""
        starts = sorted({0, *self.groups}) if self.rows else []
        ends = [*starts[1:], len(self.rows)]
        return [
            (self.groups.get(start), self.rows[start:end]) for start, end in zip(starts, ends, strict=True)
        ]

    def with_text(self, search: str) -> Table:
        """Return the table with the rows, or whole blocks by their title, that contain a text, whatever its case."""
        rows: list[tuple[Entry, ...]] = []
        groups: dict[int, Group] = {}
        for group, block in self.blocks():
            titled = group is not None and search.lower() in group.title.lower()
            kept = [
                row for row in block if titled or any(search.lower() in entry.text.lower() for entry in row)
            ]
            if group is not None and kept:
                groups[len(rows)] = group
            rows += kept
        return replace(self, rows=tuple(rows), groups=groups)

    def with_columns(self, chosen: Sequence[str]) -> Table:
        """Return the table with the columns whose headings contain one of the texts, beside the first; of none: all.

        Raises:
            ValueError: For a text that no heading contains.
        """
        for text in chosen:
            if not any(text in heading for heading in self.headings):
                raise ValueError(f"no column with {text!r}; there: {', '.join(self.headings)}")
        kept = [
            place
            for place, heading in enumerate(self.headings)
            if not place or not chosen or any(text in heading for text in chosen)
        ]
        return replace(
            self,
            headings=tuple(self.headings[place] for place in kept),
            rows=tuple(tuple(row[place] for place in kept) for row in self.rows),
            column_tasks=tuple(self.column_tasks[place] for place in kept) if self.column_tasks else (),
        )

    def notes(self) -> dict[str, str]:
        """Return the distinct notes with their letters, in the order of reading."""
        distinct = dict.fromkeys(entry.note for row in self.rows for entry in row if entry.note)
        return {note: _letter(number) for number, note in enumerate(distinct)}


def _letter(number: int) -> str:
    quotient, remainder = divmod(number, 26)
    return (_letter(quotient - 1) if quotient else "") + chr(ord("a") + remainder)


def blank(note: str) -> Entry:
    """Return a dash with the reason."""
    return Entry(DASH, note=note)


def percent(estimate: Estimate, *, cells: Iterable[str] = (), note: str = "") -> Entry:
    """Show a score times 100 with its interval and n; a dash stands for the interval that one seed cannot give."""
    half = DASH if estimate.low is None else f"{100 * (estimate.mean - estimate.low):.1f}"
    entry = Entry(
        f"{100 * estimate.mean:.1f} ± {half} ({estimate.n})", 100 * estimate.mean, note=note, n=estimate.n
    )
    if estimate.low is not None and estimate.high is not None:
        entry = replace(entry, low=100 * estimate.low, high=100 * estimate.high)
    return replace(entry, cells=tuple(cells))


def ratio(estimate: Estimate, *, cells: Iterable[str] = (), note: str = "") -> Entry:
    """Show a ratio with its interval."""
    text = f"{estimate.mean:.2f}×"
    if estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return Entry(text, estimate.mean, estimate.low, estimate.high, estimate.n, note, cells=tuple(cells))


def linked(row: Iterable[Entry], cells: Iterable[str]) -> tuple[Entry, ...]:
    """Let every number of a row that names no cells of its own lead to these."""
    ids = tuple(cells)
    return tuple(entry if entry.cells or entry.value is None else replace(entry, cells=ids) for entry in row)


def number(value: float) -> str:
    """Show a signed number of points with a real minus sign."""
    return f"{value:+.1f}".replace("-", "−")


def p_value(value: float) -> Entry:
    """Show a p-value; what lies below a thousandth says only that."""
    return Entry("<0.001" if value < 0.001 else f"{value:.3f}", value)


def quantity(values: Iterable[float], *, unit: float, digits: int | Literal["three"] = "three") -> Entry:
    """Show a size in a unit: one number, or the range where it differs between tasks or seeds."""
    known = sorted(value / unit for value in values if np.isfinite(value))
    if not known:
        return blank("not recorded")
    shown = list(dict.fromkeys(_number(value, digits) for value in known))
    text = shown[0] if len(shown) == 1 else f"{shown[0]}–{shown[-1]}"
    return Entry(text, sum(known) / len(known), n=len(known))


def _number(value: float, digits: int | Literal["three"]) -> str:
    if digits != "three":
        return f"{value:.{digits}f}"
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    return f"{rounded:.{max(0, 2 - int(np.floor(np.log10(abs(rounded)))))}f}"
