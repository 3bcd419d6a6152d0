"""Statistics, tables, figures and the page, drawn from a frame of records alone."""
