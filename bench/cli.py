"""The command ``moebench``; heavy imports live inside the commands, so that it answers at once."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler

from bench.errors import UserError
from results.errors import RunFolderError

app = typer.Typer(
    help="Run BERT compression methods through one harness: the same teacher, data order, budget and clock.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PIPE_WIDTH = 200  # nothing is cut off where no terminal says how wide it is
out_console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
error_console = Console(stderr=True, soft_wrap=True)

RunOption = Annotated[Path, typer.Argument(help="Run folder.")]
Repeated = Annotated[list[str] | None, typer.Option(help="name[key=value,…]; replaces the matrix's list.")]


def main() -> None:
    """Run the command line; errors meant for people are one line and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_log_handler()])
    try:
        app()
    except (UserError, RunFolderError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        error_console.print("interrupted; the same command goes on where it stopped")
        sys.exit(130)


@app.command()
def run(
    matrix: Annotated[str, typer.Argument(help="A preset (`moebench ls presets`) or a YAML file.")],
    method: Repeated = None,
    task: Repeated = None,
    seeds: Annotated[str | None, typer.Option(help="As in 0,1,2 or 0-4.")] = None,
    teacher: Annotated[str | None, typer.Option(help="embedded, ./folder, or hub-id@revision.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of Parquet files, as the hub lays them out.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most N rows of each split: a smoke run.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")] = None,
    executor: Annotated[Literal["serial", "processes"] | None, typer.Option()] = None,
    devices: Annotated[str | None, typer.Option(help="GPUs, as in 0,1 or 0-3; all by default.")] = None,
    cells_per_gpu: Annotated[int | None, typer.Option(min=1, help="Cells that share a GPU.")] = None,
    overwrite: Annotated[
        Literal["never", "failed", "stale", "always"],
        typer.Option(help="What is made again besides what is missing; each includes the ones before it."),
    ] = "failed",
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Train and evaluate only.")] = False,
    runtime: Annotated[
        list[str] | None, typer.Option(help="How models are timed: `moebench ls runtimes`.")
    ] = None,
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="In which they are timed.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells and an estimate.")] = False,
) -> None:
    """Run a matrix; run again, it goes on with what is missing or failed."""
    from bench.matrix import LatencyPlan, load_matrix

    overrides: dict[str, Any] = {
        "methods": method or None,
        "tasks": task or None,
        "seeds": parse_numbers(seeds, "--seeds") if seeds else None,
        "teacher": teacher,
        "data": str(data) if data else None,
        "limit": limit,
    }
    chosen = load_matrix(matrix, {key: value for key, value in overrides.items() if value is not None})
    packing = {
        "devices": devices and tuple(parse_numbers(devices, "--devices")),
        "cells_per_gpu": cells_per_gpu,
    }
    packing = {key: value for key, value in packing.items() if value}
    if executor or packing:
        plan = chosen.executor.model_copy(update={"name": executor or "processes", **packing})
        chosen = chosen.model_copy(update={"executor": plan})
    timing = {key: value for key, value in (("runtimes", tuple(runtime or ())), ("dtype", dtype)) if value}
    if timing:
        timed = chosen.latency or LatencyPlan()
        chosen = chosen.model_copy(update={"latency": timed.model_copy(update=timing)})
    if no_latency:
        chosen = chosen.model_copy(update={"latency": None})
    folder = out or Path("runs") / chosen.name
    if dry_run:
        _dry_run(chosen, folder, overwrite)
        return
    from bench.display import Display
    from bench.run import run as run_matrix

    with Display(error_console) as display:
        outcome = run_matrix(chosen, folder, overwrite=overwrite, listener=display)
    report_folder = folder / "report"
    _write_report(folder, report_folder, chosen.name)
    document = outcome.document() | {"report": str(report_folder / "report.html")}
    for failure in outcome.failures:
        error_console.print(f"failed    {failure}", style="red", highlight=False, markup=False)
    typer.echo(json.dumps(document))
    if outcome.failures:
        raise typer.Exit(1)


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
def report(
    run: RunOption,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/report.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> None:
    """Write Markdown, CSV, LaTeX and one HTML page from a run's records."""
    page = _write_report(run, out or run / "report", run.resolve().name)
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
    run: RunOption,
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
    data: Annotated[
        Path | None, typer.Option(help="Folder of Parquet files, as the hub lays them out.")
    ] = None,
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
    run: RunOption,
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


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option(help="Joined run folder.")],
) -> None:
    """Join run folders; two teachers under one (task, seed) are refused."""
    from results.store import merge as merge_folders

    out_console.print(f"{merge_folders(runs, out)} records in {out}", highlight=False)


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


@app.command()
def cp(
    preset: Annotated[str, typer.Argument(help="Name of a preset.")],
    to: Annotated[Path | None, typer.Argument(help="Default: PRESET.yaml here.")] = None,
) -> None:
    """Copy a preset, to be edited and given to `moebench run`."""
    from bench.errors import unknown
    from bench.matrix import presets

    known = presets()
    if preset not in known:
        raise unknown("preset", preset, known)
    target = to or Path(f"{preset}.yaml")
    if target.exists():
        raise UserError(f"{target}: there already; name another file")
    shutil.copyfile(known[preset], target)
    out_console.print(f"wrote {target}", highlight=False)


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="As in my-method.")],
    folder: Annotated[Path, typer.Option(help="Where the package goes.")] = Path(),
) -> None:
    """Write a package with a working method and its test."""
    from bench.scaffold import scaffold

    for path in scaffold(name, folder):
        out_console.print(f"wrote {path}", highlight=False)


def parse_numbers(text: str, option: str) -> list[int]:
    """Read ``0,1,2`` or ``0-4``, each number once."""
    try:
        numbers: list[int] = []
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        raise UserError(f"{option} {text!r}: write numbers, as in 0,1,2 or 0-4") from None
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"{option} {text!r}: each number once, at least one")
    return numbers


def _dry_run(matrix: Any, folder: Path, overwrite: Any) -> None:
    from bench import listing
    from bench.estimate import estimate_seconds
    from bench.survey import REDO, Survey
    from results.store import RunFolder

    survey = Survey(matrix, RunFolder(folder))
    tries = [*survey.teacher_tries(), *survey.student_tries()]
    cells = [*survey.teachers(), *survey.students()]
    if tries:
        out_console.print(listing.cells_table(tries, kind="tries"))
    out_console.print(listing.cells_table(cells))
    tries, cells = ([cell for cell in some if cell.state in REDO[overwrite]] for some in (tries, cells))
    minutes = estimate_seconds(survey, [*tries, *cells]) / 60
    counts = f"{len(tries)} tries and {len(cells)} cells" if survey.trials else f"{len(cells)} cells"
    out_console.print(f"{counts} to make, about {minutes:.0f} min here; nothing was run", highlight=False)


def _write_report(run: Path, out: Path, title: str) -> Path:
    from reports import comparison_table, write
    from results.frame import load

    try:
        frame = load(run)
        paths = write(frame, out, title)
    except ValueError as error:  # what the frame refuses, it refuses for people
        raise UserError(f"{run}: {error}") from error
    out_console.print(comparison_table(frame).to_string(index=False), markup=False, highlight=False)
    page = next(path for path in paths if path.suffix == ".html")
    out_console.print(f"report: {page}", highlight=False)
    return page


def _log_handler() -> logging.Handler:
    return RichHandler(console=error_console, show_time=False, show_path=False, show_level=True)


def _fail(message: str) -> None:
    error_console.print(f"error: {message}", style="red", highlight=False, markup=False)
    sys.exit(2)


if __name__ == "__main__":
    main()
