"""Find a task by name or by file, apply its options, and say where its rows are to be had on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench import hub, registry, sources
from bench.errors import UserError, unknown
from bench.tasks.heads import require_known_scores
from bench.tasks.task import Task

TASK_FILES = (".yaml", ".yml")


def names() -> list[str]:
    """Return the names of all registered tasks."""
    return registry.tasks.names()


def find(name_or_yaml: str, options: Mapping[str, str] | None = None) -> Task:
    """Return a task with its options applied.

    Args:
        name_or_yaml: A registered name, or the path of a task file.
        options: ``max_length``, and other files for splits: ``{"train": "train-part"}``. The task's notes name them, so
            that every table can.

    Raises:
        UserError: For an unknown name, score or option, or a wrong value.
    """
    if Path(name_or_yaml).suffix in TASK_FILES:
        from bench.tasks.own import read_task

        task = read_task(Path(name_or_yaml))
        if task.name in names():
            raise UserError(
                f"{name_or_yaml}: a registered task has the name {task.name!r}; write another `name:`"
            )
    else:
        task = registry.tasks.get(name_or_yaml)
        if not isinstance(task, Task):
            raise UserError(f"task {name_or_yaml!r}: its entry point is no Task but a {type(task).__name__}")
    require_known_scores(task)
    return _with_options(task, options or {})


def availability(task: Task) -> str:
    """Say where the rows come from here: ``embedded``, ``directory``, ``hub`` or ``not here: why``.

    Names of files decide; nothing is opened and no network is asked.
    """
    if task.source.kind == "embedded":
        return "embedded"
    try:
        folder = sources.task_folder(task)
        if folder is not None:
            lacks = [role for role in _needed(task) if not sources.split_files(folder, task.splits[role])]
            if lacks:
                there = ", ".join(sources.files_there(folder)) or "no Parquet file"
                return f"not here: no {', '.join(lacks)} in {folder}, which has {there}"
            return "directory"
    except UserError as error:
        return f"not here: {error}"
    if not hub.offline() or _is_cached(task):
        return "hub"
    return f"not here: HF_HUB_OFFLINE is set, and MOEBENCH_DATA names no folder with {task.directory or task.name}"


def _is_cached(task: Task) -> bool:
    """Say whether the hub's cache has the splits that a run needs."""
    commit = hub.cached(task.source.path, task.source.revision or "", "dataset")
    folder = commit / (task.source.config or "data")
    return all(sources.split_files(folder, task.splits[role]) for role in _needed(task))


def _needed(task: Task) -> list[str]:
    return [role for role in ("train", *task.evaluation_splits) if role in task.splits]


def _with_options(task: Task, options: Mapping[str, str]) -> Task:
    if not options:
        return task
    possible = [*dict.fromkeys([*task.splits, "train", "test"]), "max_length"]
    changes: dict[str, object] = {}
    splits = dict(task.splits)
    for key, value in options.items():
        if key not in possible:
            raise unknown("option", key, possible, where=f"task {task.name!r}")
        if not value:
            raise UserError(f"task {task.name!r}: option {key!r} is empty")
        if key == "max_length":
            if not value.isdecimal() or not 8 <= int(value) <= 8192:
                raise UserError(f"task {task.name!r}: max_length is {value!r}; possible: 8 to 8192 tokens")
            changes["max_length"] = int(value)
        else:
            splits[key] = value
    said = ", ".join(f"{key}={value}" for key, value in options.items())
    changes |= {"splits": splits, "notes": f"with {said}; {task.notes}".removesuffix("; ")}
    return task.model_copy(update=changes)
