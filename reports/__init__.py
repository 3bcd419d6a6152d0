"""Reports drawn from a frame of records: tables, figures, one page, model cards."""

from reports.changes import changes
from reports.formats import terminal
from reports.model_card import export
from reports.report import comparison_table, write

__all__ = ["changes", "comparison_table", "export", "terminal", "write"]
