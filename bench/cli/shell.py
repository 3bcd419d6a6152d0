"""What all commands share: the application, where it prints, options that several take."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.errors import UserError

app = typer.Typer(
    help="Run BERT compression methods through one harness: the same teacher, data order, budget and clock.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
PIPE_WIDTH = 200  # nothing is cut off where no terminal says how wide it is
out_console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
error_console = Console(stderr=True, soft_wrap=True)

RunFolderArgument = Annotated[Path, typer.Argument(help="Run folder.")]
DataOption = Annotated[Path | None, typer.Option(help="Folder of Parquet files, as the hub lays them out.")]


def write_report(run: Path, out: Path, title: str, *, only: Collection[str] | None = None) -> Path:
    """Write the report of a run, or of some of its records; show the main table and return the page."""
    from reports import comparison_table, write
    from results.frame import load

    try:
        frame = load(run, only=only)
        paths = write(frame, out, title)
    except ValueError as error:  # what the frame refuses, it refuses for people
        raise UserError(f"{run}: {error}") from error
    out_console.print(comparison_table(frame).to_string(index=False), markup=False, highlight=False)
    page = next(path for path in paths if path.suffix == ".html")
    out_console.print(f"report: {page}", highlight=False)
    return page
