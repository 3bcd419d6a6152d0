"""Commands that turn the records of runs into something to read, to send or to load."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shell import DataOption, RunFolderArgument, app, error_console, out_console, write_report
from bench.errors import UserError


@app.command()
def report(
    run: RunFolderArgument,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/report.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> None:
    """Write Markdown, CSV, LaTeX and one HTML page from a run's records."""
    page = write_report(run, out or run / "report", run.resolve().name)
    if open_page and not webbrowser.open(page.resolve().as_uri()):
        raise UserError(f"no browser could be started; open {page} by hand")


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="Run folder.")],
    after: Annotated[Path, typer.Argument(help="Run folder.")],
) -> None:
    """Show what differs between two runs, by how much, and whether it is noise."""
    from reports import changes, terminal
    from results.frame import load

    names = (before.name, after.name) if before.name != after.name else (str(before), str(after))
    try:
        table = changes(load(before), load(after), names=names)
    except ValueError as error:
        raise UserError(f"{before} and {after}: {error}") from error
    out_console.print(terminal(table), markup=False, highlight=False)


@app.command()
def export(
    run: RunFolderArgument,
    cell: Annotated[str, typer.Argument(help="Id of a finished cell, or how it begins.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
) -> None:
    """Write a cell's checkpoint with a model card, for `from_pretrained` and the hub."""
    from reports import export as export_cell

    for path in export_cell(run, cell, out):
        out_console.print(f"wrote {path}", highlight=False)


@app.command()
def anatomy(
    path: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="Run folder, or a checkpoint's.")],
    task: Annotated[
        str | None, typer.Option(help="What the checkpoint was trained for; of a run, only this task.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="What the checkpoint was cut from; a run has its own.")
    ] = None,
    cell: Annotated[str | None, typer.Option(help="Of a run: only this cell, by how its id begins.")] = None,
    data: DataOption = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="At most N validation rows; 500 by default.")
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="Also write sentences that each expert reads; never shared.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="For Markdown and figures; of a checkpoint ./anatomy by default.")
    ] = None,
) -> None:
    """Measure what the experts of trained mixtures learned."""
    from bench.anatomy import examine, find, keep
    from reports import terminal
    from reports.report import require_free, write_anatomy
    from reports.tables.anatomy import anatomy_tables
    from results.frame import from_records

    subjects = find(path, task=task, teacher=teacher, cell=cell)
    in_run = subjects[0].identity is not None
    out = out if in_run or out else Path("anatomy")
    if out:
        require_free(out)
    records = []
    beside: dict[str, str] = {}
    for subject in subjects:
        error_console.print(f"measuring {subject.name}", highlight=False, markup=False)
        examined = examine(subject, data=data, limit=limit, examples=examples)
        records.append(examined.record)
        beside |= examined.files()
        if in_run:
            for file in keep(path, examined):
                out_console.print(f"wrote {file}", highlight=False)
    frame = from_records(records)
    out_console.print(terminal(anatomy_tables(frame)[0]), markup=False, highlight=False)
    if out:
        write_anatomy(frame, out, f"Anatomy of {path.resolve().name}", beside)
        out_console.print(f"report: {out / 'report.md'}", highlight=False)
    if in_run:
        out_console.print(f"moebench report {path} shows it", highlight=False)


@app.command()
def submit(
    run: RunFolderArgument,
    method: Annotated[str, typer.Option(help="As the run's table calls it; `teacher` too.")],
    seed: Annotated[int | None, typer.Option(help="Default: the first seed of the run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/submissions/METHOD-SEED.zip.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the test splits; default: the run's.")
    ] = None,
    fill: Annotated[
        bool, typer.Option("--fill", help="Answer tasks that the run lacks by a constant.")
    ] = False,
) -> None:
    """Write the zip of predictions on GLUE's test splits that its server takes."""
    from bench.submission import submit as write_submission
    from results.store import RunFolder

    path, filled = write_submission(RunFolder(run), method, seed=seed, out=out, data=data, fill=fill)
    if filled:
        error_console.print(f"filled with a constant: {', '.join(filled)}", highlight=False, markup=False)
    out_console.print(f"wrote {path}", highlight=False)


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option(help="Joined run folder.")],
    matrix: Annotated[
        str | None,
        typer.Option(help="Preset or YAML file that the joined folder answers; default: the first folder's."),
    ] = None,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Small enough to commit: all that reports read, and no checkpoints."),
    ] = False,
) -> None:
    """Join run folders; two teachers under one (task, seed) are refused."""
    from results.compaction import merge_compactly
    from results.store import RunFolder, write_atomically
    from results.store import merge as merge_folders

    answered = None
    if matrix is not None:
        from bench.matrix import load_matrix, matrix_yaml

        answered = matrix_yaml(load_matrix(matrix)).encode()
    count = merge_compactly(runs, out) if compact else merge_folders(runs, out)
    if answered is not None:
        write_atomically(RunFolder(out).matrix_file, answered)
    out_console.print(f"{count} records in {out}", highlight=False)
