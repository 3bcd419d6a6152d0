"""Tables and descriptions for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from bench.errors import UserError, unknown
from bench.registry import distribution_of, methods, runtimes, tasks

if TYPE_CHECKING:
    from bench.survey import Cell
    from bench.tasks.task import Task

Listing = tuple[Sequence[str], Sequence[Sequence[str]]]  # names of the columns, and rows


def table(what: str, run: Path | None, search: str) -> RenderableType:
    """List methods, tasks, runtimes, presets, the cells of a run, or published numbers."""
    listings: Mapping[str, Callable[[], Listing]] = {
        "methods": _methods,
        "tasks": _tasks,
        "runtimes": _runtimes,
        "presets": _presets,
        "published": _published,
    }
    if what == "cells":
        if run is None:
            raise UserError("say which run: moebench ls cells runs/NAME")
        return _run_cells(run, search)
    columns, rows = listings[what]()
    return _table(columns, rows, search)


def describe(name: str, cell: str | None) -> RenderableType:
    """Describe a run folder, one of its records, a task, a method or a preset."""
    from bench.matrix import parse_choice, presets

    folder = Path(name)
    if (folder / "records").is_dir():
        return _describe_run(folder, cell)
    plain = next(iter(parse_choice(name)))
    if plain in methods.names():
        return _describe_method(plain)
    if plain in tasks.names() or folder.suffix in {".yaml", ".yml"}:
        return _describe_task(name)
    if name in presets():
        return _describe_preset(name)
    raise unknown("run folder, method, task or preset", name, [*methods.names(), *tasks.names(), *presets()])


def assets(action: str, names: Sequence[str]) -> RenderableType:
    """List, fetch, verify or remove the embedded assets; list them afterwards."""
    from bench import assets as store

    for name in names:
        if name not in store.ASSETS:
            raise unknown("asset", name, store.ASSETS)
    chosen = [store.ASSETS[name] for name in names or store.ASSETS]
    if action == "fetch":
        for asset in chosen:
            store.ensure(asset)
    elif action == "remove":
        store.remove([asset.name for asset in chosen])
    states = [state for state in store.states() if not names or state.name in names]
    if action == "verify" and (bad := [state.name for state in states if state.state != "present"]):
        raise UserError(f"not present and whole: {', '.join(bad)}; `moebench assets fetch` gets them again")
    rows = [
        (state.name, state.version, state.licence, f"{state.bytes / 2**20:.1f}", state.state, str(state.path))
        for state in states
    ]
    return _table(("asset", "version", "licence", "MiB", "state", "folder"), rows)


def cells_table(cells: Iterable[Cell], search: str = "", kind: str = "cells") -> RenderableType:
    """List cells, or tries, with their state, main score and reason, and count the states."""
    cells = list(cells)
    rows = []
    for cell in cells:
        record = cell.record
        first = next(iter(record.scores.values()), {}) if record else {}
        shown = f"{record.main_score} {first[record.main_score]:.4f}" if record and first else ""
        identity = record.id if record else cell.job.cell_id if cell.job else ""
        rows.append((identity, cell.task, cell.label, str(cell.seed), cell.state, shown, cell.reason))
    counts = ", ".join(
        f"{count} {state}" for state, count in sorted(Counter(cell.state for cell in cells).items())
    )
    return _table(
        ("id", "task", "method", "seed", "state", "score", "reason"), rows, search, title=f"{kind}: {counts}"
    )


def _methods() -> Listing:
    rows = []
    for name in methods.names():
        literals = methods.literals(name)
        package = distribution_of(methods.entry(name))
        rows.append((name, literals.get("summary", ""), literals.get("paper", ""), package))
    return ("method", "summary", "paper", "package"), rows


def _tasks() -> Listing:
    from bench.tasks import catalog

    found = [catalog.find(name) for name in catalog.names()]
    rows = [(task.name, task.summary, task.main_score, catalog.availability(task)) for task in found]
    return ("task", "summary", "main score", "here"), rows


def _runtimes() -> Listing:
    from bench.latency.runtimes import availability

    rows = [
        (name, runtimes.literals(name).get("summary", ""), availability(runtimes.get(name)()))
        for name in runtimes.names()
    ]
    return ("runtime", "summary", "here"), rows


def _presets() -> Listing:
    from bench.matrix import load_matrix, presets

    return ("preset", "summary"), [(name, load_matrix(name).summary) for name in presets()]


def _published() -> Listing:
    from results import published

    columns = (
        *("source", "method", "teacher", "parameters_millions"),
        *("task", "score", "split", "value", "place", "warning"),
    )
    return columns, [tuple(getattr(number, column) for column in columns) for number in published.search()]


def _run_cells(folder: Path, search: str = "") -> RenderableType:
    from bench.recorded import recorded_cells, recorded_tries
    from results.store import RunFolder

    run = RunFolder(folder)
    cells = cells_table(recorded_cells(run), search)
    tries = recorded_tries(run)
    return Group(cells_table(tries, search, kind="tries"), cells) if tries else cells


def _describe_run(folder: Path, record_id: str | None) -> RenderableType:
    from results.store import RunFolder

    if record_id is None:
        return _run_cells(folder)
    run = RunFolder(folder)
    found = [record for record in run.records() if record.id.startswith(record_id)]
    if len(found) != 1:
        known = [record.id for record in run.records()]
        raise unknown("record", record_id, known, where=str(folder))
    return _yaml(found[0].model_dump(mode="json", exclude_defaults=True))


def _describe_method(name: str) -> RenderableType:
    method = methods.get(name)
    tried = {key: ", ".join(map(str, values)) for key, values in method.grid.items()}
    knobs = [
        (key, _type_name(field.annotation), str(field.default), tried.pop(key, ""), field.description or "")
        for key, field in method.Config.model_fields.items()
    ]
    knobs += [(key, "", "", values, "of the harness") for key, values in tried.items()]
    title = f"{method.name}: {method.summary} [{method.paper}]"
    return _table(("knob", "type", "default", "tuning tries", "meaning"), knobs, title=title)


def _describe_preset(name: str) -> RenderableType:
    """Show a preset as it is written, and what its tuning would try."""
    from bench.matrix import load_matrix, presets
    from bench.tuning import matrix_trials

    document = _highlighted(presets()[name].read_text(encoding="utf-8"))
    rows = [
        (task, label, str(number), ", ".join(f"{knob}={value}" for knob, value in knobs.items()))
        for (task, label), trials in matrix_trials(load_matrix(name)).items()
        for number, knobs in enumerate(trials.knobs, start=1)
    ]
    if not rows:
        return document
    return Group(
        document, _table(("tuned on", "method", "try", "knobs"), rows, title=f"tuning: {len(rows)} tries")
    )


def _describe_task(text: str) -> RenderableType:
    """Show a task's data and, where its rows are here, how long they are and what padding they cost."""
    from bench.matrix import Choice, parse_choice
    from bench.plans import find_task
    from bench.tasks import catalog

    ((name, options),) = parse_choice(text).items()
    task = find_task(Choice(name=name, options=options))
    document = task.model_dump(mode="json", exclude_defaults=True) | {"here": catalog.availability(task)}
    if not document["here"].startswith("not here"):
        document["splits as the embedded teacher reads them"] = _lengths(task)
    return _yaml(document)


def _lengths(task: Task) -> dict[str, Any]:
    """Count the rows of a task's splits, their tokens, and what length buckets leave of padding."""
    from bench import assets as store
    from bench import checkpoints
    from bench.batching import padding_share
    from bench.cell import encode_split
    from bench.sources import load_rows
    from results.record import Budget

    rows = load_rows(task)
    tokenizer = checkpoints.load_tokenizer(checkpoints.resolve("embedded"))
    found = {}
    for role in rows.splits:
        lengths = encode_split(task, rows, role, tokenizer, store.cache_folder() / "tokenised").lengths
        found[role] = {
            "rows": len(rows.splits[role]),
            "median tokens": int(sorted(lengths)[len(lengths) // 2]),
            "longest": int(lengths.max()),
            "padding": f"{padding_share(lengths, Budget().batch_size):.1%} of positions",
        }
    return found


def _yaml(document: Mapping[str, Any]) -> RenderableType:
    import yaml

    return _highlighted(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True))


def _highlighted(text: str) -> RenderableType:
    from rich.syntax import Syntax

    return Syntax(text, "yaml", background_color="default")


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], search: str = "", title: str | None = None
) -> RenderableType:
    shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        if search.lower() in " ".join(row).lower():
            shown.add_row(*map(escape, row))
    return shown
