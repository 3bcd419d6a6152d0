"""The records of a run as tidy tables: all that a report may read.

``results.columns`` says what each column means. A frame is checked when it is made, so whoever draws from it need not
check again.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from results.columns import ANATOMY, CELLS, CURVES, ENVIRONMENTS, LATENCY, SCORES, TRIES
from results.errors import FrameError
from results.record import AnatomyRecord, CellRecord, LatencyRecord
from results.rows import cell_row, curve_rows, environment_row, latency_rows, score_rows, task_label, try_rows
from results.store import AnyRecord, RunFolder

if TYPE_CHECKING:
    from results.environment import Environment

TEACHER = "teacher"


@dataclass(frozen=True, eq=False)
class Frame:
    """The records of a run; ``results.columns`` describes the columns. Two frames are equal only if they are one.

    Raises:
        FrameError: Where a column is missing, a cell stands twice, a (task, seed) has two teachers, or a finished cell
            has no finite main score.
    """

    cells: pd.DataFrame
    scores: pd.DataFrame
    tries: pd.DataFrame
    latency: pd.DataFrame
    curves: pd.DataFrame
    environments: pd.DataFrame
    anatomy: pd.DataFrame

    def __post_init__(self) -> None:
        for name, columns in _TABLES.items():
            missing = [column for column in columns if column not in getattr(self, name).columns]
            if missing:
                raise FrameError(f"frame.{name}: missing columns {missing}")
        _refuse_duplicates(self.cells)
        _refuse_two_teachers(self.cells)
        _refuse_unusable_scores(self.cells, self.scores)
        _refuse_unusable_timings(self.latency)


_TABLES = {
    "cells": CELLS,
    "scores": SCORES,
    "tries": TRIES,
    "latency": LATENCY,
    "curves": CURVES,
    "environments": ENVIRONMENTS,
    "anatomy": ANATOMY,
}


def load(folder: Path, *, only: Collection[str] | None = None) -> Frame:
    """Read a run folder.

    Args:
        folder: The run folder.
        only: Ids of cells and timings that are wanted, with the anatomies of those cells; None means all.

    Raises:
        FileNotFoundError: Where the folder has no records.
        FrameError: Where its records do not make a frame.
    """
    run = RunFolder(folder)
    with _collector_at_rest():
        records = [
            record
            for record in run.records()
            if only is None or (record.cell_id if isinstance(record, AnatomyRecord) else record.id) in only
        ]
        if not records:
            raise FileNotFoundError(f"{folder}: no records; a run folder has records/<cell id>.json")
        return from_records(records, environments=run.environments(), folder=run)


def from_records(
    records: Iterable[AnyRecord],
    *,
    environments: Mapping[str, Environment] | None = None,
    folder: RunFolder | None = None,
) -> Frame:
    """Lay records out as tables; with a folder, cells know the files of their predictions."""
    records = list(records)
    cells = [
        record for record in records if isinstance(record, CellRecord) and record.identity.held_out is None
    ]
    timings = [record for record in records if isinstance(record, LatencyRecord)]
    anatomies = [
        record for record in records if isinstance(record, AnatomyRecord) and record.status == "done"
    ]
    tasks = {cell.id: task_label(cell) for cell in cells}
    return Frame(
        cells=_table(CELLS, [cell_row(cell, folder) for cell in cells], sort=["task", "label", "seed"]),
        scores=_table(SCORES, [row for cell in cells for row in score_rows(cell)]),
        tries=_table(TRIES, [row for cell in cells for row in try_rows(cell)]).drop_duplicates(
            ignore_index=True
        ),
        latency=_table(
            LATENCY,
            latency_rows(timings, tasks, {key: each.cores for key, each in (environments or {}).items()}),
            sort=["task", "label", "seed", "environment", "runtime", "workload"],
        ),
        curves=_table(CURVES, [row for cell in cells for row in curve_rows(cell)]),
        environments=_table(ENVIRONMENTS, [environment_row(*item) for item in (environments or {}).items()]),
        anatomy=_table(
            ANATOMY,
            [
                {
                    "cell_id": anatomy.cell_id,
                    "task": tasks.get(anatomy.cell_id, anatomy.task),
                    "label": anatomy.label,
                    "seed": anatomy.seed,
                    "measures": anatomy.measures,
                }
                for anatomy in anatomies
            ],
        ),
    )


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Keep the collector of cycles from searching records, which have none: half the time of reading them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _table(
    columns: Mapping[str, str], rows: list[dict[str, Any]], *, sort: list[str] | None = None
) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(columns))
    return table.sort_values(sort, kind="stable", ignore_index=True) if sort else table


def _refuse_duplicates(cells: pd.DataFrame) -> None:
    keys = ["task", "label", "seed"]
    repeated = cells[cells.duplicated(keys, keep=False)]
    if repeated.empty:
        return
    first = repeated.iloc[0]
    group = repeated[(repeated[keys] == first[keys]).all(axis=1)]
    differing = [
        column
        for column in ("data", "config", "budget", "teacher", "precision", "method")
        if len(group[column].unique()) > 1
    ]
    raise FrameError(
        f"{len(group)} cells for {first['label']!r} on {first['task']!r}, seed {first['seed']}: "
        f"{', '.join(group['cell_id'])}; they differ in {', '.join(differing) or 'nothing'}; "
        "a table needs one: report them from separate folders"
    )


def _refuse_two_teachers(cells: pd.DataFrame) -> None:
    students = cells[cells["method"] != TEACHER]
    for (task, seed), group in students.groupby(["task", "seed"], sort=True):
        if len(group["teacher"].unique()) > 1:
            one = group.drop_duplicates("teacher").iloc[:2]
            raise FrameError(
                f"two teachers for task {task!r}, seed {seed}: cells {' and '.join(one['cell_id'])} were made from "
                f"{' and '.join(sha[:12] for sha in one['teacher'])}; students of two teachers cannot share a table"
            )


def _refuse_unusable_scores(cells: pd.DataFrame, scores: pd.DataFrame) -> None:
    done = cells[cells["status"] == "done"]
    bad = done[~done["main_value"].between(-1, 1)]
    if not bad.empty:
        cell = bad.iloc[0]
        raise FrameError(
            f"cell {cell['cell_id']} ({cell['label']!r} on {cell['task']!r}, seed {cell['seed']}) is done but its "
            f"{cell['main_score']} on the validation split is {cell['main_value']}; scores lie in [-1, 1]"
        )
    bad = scores[~scores["value"].between(-1, 1)]
    if not bad.empty:
        row = bad.iloc[0]
        raise FrameError(
            f"cell {row['cell_id']}: {row['score']} on {row['split']} is {row['value']}; scores lie in [-1, 1]"
        )


def _refuse_unusable_timings(latency: pd.DataFrame) -> None:
    done = latency[latency["status"] == "done"]
    numbers = done[["p50_ms", "baseline_p50_ms", "speedup", "speedup_low", "speedup_high"]].astype(float)
    bad = done[~(numbers > 0).all(axis=1)]
    if not bad.empty:
        row = bad.iloc[0]
        raise FrameError(
            f"timing {row['latency_id']} ({row['label']!r}, workload {row['workload']!r}) is done but has a time or "
            "ratio that is not positive"
        )
    keys = ["cell_id", "environment", "device", "runtime", "dtype", "threads", "workload"]
    repeated = latency[latency.duplicated(keys, keep=False)]
    if not repeated.empty:
        row = repeated.iloc[0]
        raise FrameError(
            f"two timings of cell {row['cell_id']} ({row['label']!r}) for workload {row['workload']!r} under runtime "
            f"{row['runtime']!r} in environment {row['environment']}; a table needs one"
        )
