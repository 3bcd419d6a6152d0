"""Commands for those who add a method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shell import app, out_console


@app.command()
def check(method: Annotated[str, typer.Argument(help="A registered method.")]) -> None:
    """Run the contract suite on a method, ours or a third party's."""
    from bench.contract import run_contract

    results = run_contract(method)
    for result in results:
        mark = "[green]passed[/]" if result.passed else "[red]FAILED[/]"
        out_console.print(f"{mark}  {result.name}  ({result.seconds:.1f} s)", highlight=False)
        if result.detail:
            out_console.print(f"        {result.detail}", highlight=False, markup=False)
    failed = sum(not result.passed for result in results)
    out_console.print(f"{len(results) - failed} passed, {failed} failed", highlight=False)
    if failed:
        raise typer.Exit(1)


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="As in my-method.")],
    folder: Annotated[Path, typer.Option(help="Where the package goes.")] = Path(),
) -> None:
    """Write a package with a working method and its test."""
    from bench.scaffold import scaffold

    for path in scaffold(name, folder):
        out_console.print(f"wrote {path}", highlight=False)
