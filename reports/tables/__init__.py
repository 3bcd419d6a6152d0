"""The tables of a report beside the main one: one ordered registry of functions from a frame to tables."""

from __future__ import annotations

from collections.abc import Callable

from reports.entries import Table
from reports.tables.ablation import ablation_tables
from reports.tables.anatomy import anatomy_tables
from reports.tables.comparison import comparison_tables
from reports.tables.cost import cost_tables
from reports.tables.latency import latency_tables
from reports.tables.literature import literature_tables
from reports.tables.main import main_table
from results.frame import Frame

TABLES: tuple[Callable[[Frame], list[Table]], ...] = (
    comparison_tables,
    literature_tables,
    ablation_tables,
    anatomy_tables,
    latency_tables,
    cost_tables,
)
_BY_NAME = {
    "comparison": comparison_tables,
    "latency": latency_tables,
    "cost": cost_tables,
}  # of one table each


def find_table(frame: Frame, name: str) -> Table:
    """Return one table of a report.

    Raises:
        ValueError: Where the report of this frame has no table of that name.
    """
    there = []
    families = (_BY_NAME[name],) if name in _BY_NAME else (lambda frame: [main_table(frame)], *TABLES)
    for draw_tables in families:
        for table in draw_tables(frame):
            if table.name == name:
                return table
            there.append(table.name)
    raise ValueError(f"no table {name!r}; there: {', '.join(there)}")


__all__ = ["TABLES", "find_table", "main_table"]
