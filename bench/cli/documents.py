"""Commands that print a part of a report, and documents that hold what they print."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.shell import RunFolderArgument, app, out_console
from bench.errors import UserError

if TYPE_CHECKING:
    from reports.entries import Table
    from results.frame import Frame

MarkdownOption = Annotated[bool, typer.Option("--markdown", help="As GitHub shows it.")]


@app.command()
def contrast(
    run: RunFolderArgument,
    method: Annotated[str, typer.Argument(help="As the run's table calls it.")],
    reference: Annotated[str, typer.Argument(help="What it is compared with; `teacher` too.")],
    markdown: MarkdownOption = False,
) -> None:
    """Compare two methods of a run on every task, and over tasks."""
    from reports.contrasts import contrast as drawn

    try:
        table = drawn(_frame(run), method, reference)
    except ValueError as error:
        raise UserError(f"{run}: {error}") from error
    _print(table, markdown)


@app.command()
def table(
    run: RunFolderArgument,
    name: Annotated[str, typer.Argument(help="As its file in a report's tables/ is called.")],
    search: Annotated[str, typer.Option(help="Only rows, or blocks of them, that contain this text.")] = "",
    columns: Annotated[
        str, typer.Option(help="Only columns whose headings contain one of these, as in average,speed-up.")
    ] = "",
    markdown: MarkdownOption = False,
) -> None:
    """Print one table of a run's report."""
    from reports.tables import find_table

    try:
        found = find_table(_frame(run), name).with_text(search)
        found = found.with_columns([text for text in columns.split(",") if text])
    except ValueError as error:
        raise UserError(f"{run}: {error}") from error
    _print(found, markdown)


@app.command()
def redraw(
    documents: Annotated[list[Path], typer.Argument(help="Text with <!-- moebench … --> and <!-- end -->.")],
) -> None:
    """Draw the tables of documents anew, from the records that their comments name."""
    from bench.cli.redrawing import redrawn

    for document in documents:
        text = document.read_text(encoding="utf-8")
        new = redrawn(text, Path.cwd())
        if new != text:
            document.write_text(new, encoding="utf-8")
        out_console.print(f"{document}: {'as it was' if new == text else 'redrawn'}", highlight=False)


@cache
def _frame(run: Path) -> Frame:
    """Read a run, once for all tables of a document."""
    from results.frame import load

    return load(run)


def _print(table: Table, markdown: bool) -> None:
    from reports import formats

    text = formats.markdown(table) if markdown else formats.terminal(table)
    typer.echo(text)
