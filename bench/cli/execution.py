"""Commands that run a matrix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bench.cli.shell import DataOption, app, error_console, out_console, write_report
from bench.errors import UserError

Repeated = Annotated[list[str] | None, typer.Option(help="name[key=value,…]; replaces the matrix's list.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(help="TASK or TASK:SEEDS; these cells of the matrix, the others are left for later."),
]


@app.command()
def run(
    matrix: Annotated[
        str | None, typer.Argument(help="A preset (`moebench ls presets`) or a YAML file.")
    ] = None,
    method: Repeated = None,
    task: Repeated = None,
    seeds: Annotated[str | None, typer.Option(help="As in 0,1,2 or 0-4; replaces the matrix's.")] = None,
    only: OnlyOption = None,
    tries_only: Annotated[
        bool, typer.Option("--tries-only", help="Stop once the tuning's tries are made.")
    ] = False,
    teacher: Annotated[str | None, typer.Option(help="embedded, ./folder, or hub-id@revision.")] = None,
    data: DataOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most N rows of each split: a smoke run.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")] = None,
    executor: Annotated[Literal["serial", "processes"] | None, typer.Option()] = None,
    devices: Annotated[str | None, typer.Option(help="GPUs, as in 0,1 or 0-3; all by default.")] = None,
    cells_per_gpu: Annotated[int | None, typer.Option(min=1, help="Cells that share a GPU.")] = None,
    mps: Annotated[bool, typer.Option("--mps", help="Let them run side by side, not in turns.")] = False,
    overwrite: Annotated[
        Literal["never", "failed", "stale", "always"],
        typer.Option(help="What is made again besides what is missing; each includes the ones before it."),
    ] = "failed",
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Train and evaluate only.")] = False,
    runtime: Annotated[
        list[str] | None, typer.Option(help="How models are timed: `moebench ls runtimes`.")
    ] = None,
    dtype: Annotated[
        Literal["fp32", "tf32", "bf16", "fp16"] | None, typer.Option(help="In which they are timed.")
    ] = None,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Leave the drawing to `moebench report`.")
    ] = False,
    kit: Annotated[
        Path | None, typer.Option(help="Take matrix, teacher and rows from a kit; needs no network.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells and an estimate.")] = False,
) -> None:
    """Run a matrix; run again, it goes on with what is missing or failed."""
    from bench.matrix import LatencyPlan, load_matrix
    from bench.selection import parse_numbers, parse_part

    overrides: dict[str, Any] = {
        "methods": method or None,
        "tasks": task or None,
        "seeds": parse_numbers(seeds, "--seeds") if seeds else None,
        "teacher": teacher,
        "data": str(data) if data else None,
        "limit": limit,
    }
    if kit is not None and matrix is None:
        from bench.kit import unpack

        matrix = str(unpack(kit))
    elif kit is not None or matrix is None:
        raise UserError("name a preset or a YAML file, or a kit with --kit; one of them")
    chosen = load_matrix(matrix, {key: value for key, value in overrides.items() if value is not None})
    packing = {
        "devices": devices and tuple(parse_numbers(devices, "--devices")),
        "cells_per_gpu": cells_per_gpu,
        "mps": mps,
    }
    packing = {key: value for key, value in packing.items() if value}
    if executor or packing:
        plan = chosen.executor.model_copy(update={"name": executor or "processes", **packing})
        chosen = chosen.model_copy(update={"executor": plan})
    timing = {key: value for key, value in (("runtimes", tuple(runtime or ())), ("dtype", dtype)) if value}
    if timing:
        timed = [plan.model_copy(update=timing) for plan in chosen.latency or (LatencyPlan(),)]
        chosen = chosen.model_copy(update={"latency": tuple(timed)})
    if no_latency:
        chosen = chosen.model_copy(update={"latency": ()})
    folder = out or Path("runs") / chosen.name
    parts = [parse_part(text) for text in only or ()]
    if dry_run:
        _dry_run(chosen, folder, overwrite, parts)
        return
    if kit is not None:
        from bench.kit import take_tries

        take_tries(Path(matrix), folder)
    from bench.display import Display
    from bench.run import run as run_matrix

    with Display(error_console) as display:
        outcome = run_matrix(
            chosen, folder, overwrite=overwrite, listener=display, only=parts, tries_only=tries_only
        )
    problem, page = None, None
    try:
        if not (tries_only or no_report):
            page = write_report(folder, folder / "report", chosen.name, only=outcome.records)
    except UserError as error:
        problem = error
    document = outcome.document() | {"report": str(page) if page else None}
    for failure in outcome.failures:
        error_console.print(f"failed    {failure}", style="red", highlight=False, markup=False)
    typer.echo(json.dumps(document))
    if problem:
        raise problem
    if outcome.failures:
        raise typer.Exit(1)


@app.command()
def kit(
    matrix: Annotated[str, typer.Argument(help="A preset (`moebench ls presets`) or a YAML file.")],
    out: Annotated[Path, typer.Option(help="The kit's file, as in kit.tar.")],
    teacher: Annotated[str | None, typer.Option(help="embedded, ./folder, or hub-id@revision.")] = None,
    data: DataOption = None,
    half: Annotated[bool, typer.Option("--half", help="Pack the teacher in fp16: half as large.")] = False,
    wheels: Annotated[
        Path | None, typer.Option(help="Folder of wheels that the other machine lacks, packed too.")
    ] = None,
    only: OnlyOption = None,
    tries: Annotated[
        Path | None,
        typer.Option(help="Run folder whose tuning is done: its tries are packed, not made again."),
    ] = None,
) -> None:
    """Pack all that a matrix needs into one file, for a machine without a network."""
    from bench.kit import pack
    from bench.matrix import load_matrix
    from bench.selection import parse_part

    overrides = {"teacher": teacher, "data": str(data) if data else None}
    chosen = load_matrix(matrix, {key: value for key, value in overrides.items() if value is not None})
    parts = [parse_part(text) for text in only or ()]
    size = pack(chosen, out, half=half, wheels=wheels, only=parts, tries=tries)
    out_console.print(
        f"wrote {out}, {size / 1e6:.1f} MB; `moebench run --kit {out}` uses it", highlight=False
    )


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


def _dry_run(matrix: Any, folder: Path, overwrite: Any, only: Any) -> None:
    from bench import listing
    from bench.estimate import estimate_seconds
    from bench.survey import REDO, Survey
    from results.store import RunFolder

    survey = Survey(matrix, RunFolder(folder), only)
    tries = [*survey.teacher_tries(), *survey.student_tries()]
    cells = [*survey.teachers(), *survey.students()]
    if tries:
        out_console.print(listing.cells_table(tries, kind="tries"))
    out_console.print(listing.cells_table(cells))
    tries, cells = ([cell for cell in some if cell.state in REDO[overwrite]] for some in (tries, cells))
    minutes = estimate_seconds(survey, [*tries, *cells]) / 60
    counts = f"{len(tries)} tries and {len(cells)} cells" if survey.trials else f"{len(cells)} cells"
    out_console.print(f"{counts} to make, about {minutes:.0f} min here; nothing was run", highlight=False)
