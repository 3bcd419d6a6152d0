"""Reports drawn from a frame of records: tables, figures, and one page."""

from reports.report import comparison_table, write

__all__ = ["comparison_table", "write"]
