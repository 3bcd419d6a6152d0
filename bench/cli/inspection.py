"""Commands that look: at what there is, at a run, at this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.shell import app, out_console


@app.command()
def ls(
    what: Annotated[
        Literal["methods", "tasks", "runtimes", "presets", "cells", "published"], typer.Argument()
    ],
    run: Annotated[Path | None, typer.Argument(help="Run folder, for cells.")] = None,
    search: Annotated[str, typer.Option(help="Only lines that contain this text.")] = "",
) -> None:
    """List methods, tasks, runtimes, presets, the cells of a run, or published numbers."""
    from bench import listing

    out_console.print(listing.table(what, run, search))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A run folder, a task, a method or a preset.")],
    cell: Annotated[str | None, typer.Argument(help="Id of a record in the run folder.")] = None,
) -> None:
    """Show a run's table or one record, or all that is known of a task, method or preset."""
    from bench import listing

    out_console.print(listing.describe(name, cell))


@app.command()
def assets(
    action: Annotated[Literal["list", "fetch", "verify", "remove"], typer.Argument()] = "list",
    names: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
) -> None:
    """List, fetch, verify or remove the embedded checkpoint and corpus."""
    from bench import listing

    out_console.print(listing.assets(action, names or []))


@app.command()
def doctor() -> None:
    """Say what this machine has, and what that rules out."""
    from bench.doctor import findings

    for finding in findings():
        mark = {"ok": "[green]ok   [/]", "note": "[yellow]note [/]", "bad": "[red]bad  [/]"}[finding.level]
        out_console.print(mark, finding.text, highlight=False)
