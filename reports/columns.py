"""The columns of the main table: one ordered registry; a caller may pass its own entries beside or instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from reports import captions
from reports.comparisons import compare
from reports.entries import Column, ColumnEntry, Entry, blank, linked, percent, quantity
from reports.outcomes import (
    averaged_tasks,
    evaluation_splits,
    labels,
    main_score,
    outcomes,
    task_scores,
    tasks,
)
from reports.statistics import mean_interval
from reports.timings import headline, speedup_entry
from results.frame import Frame


def score_columns(frame: Frame) -> list[Column]:
    """Draw the main score of every task and evaluation split."""
    columns = []
    for task in tasks(frame):
        for split in evaluation_splits(frame, task):
            suffix = "" if split == "validation" else f" ({split.removeprefix('validation_')})"
            tied = compare(frame, task, split).tied
            found = outcomes(frame, task, split=split)
            entries = {label: replace(one.entry(), marked=label in tied) for label, one in found.items()}
            columns.append(Column(f"{task} {main_score(frame, task)}{suffix}", entries, task))
    return columns


def average_column(frame: Frame) -> list[Column]:
    """Draw the mean over tasks, only for methods that finished all of them at one seed at least."""
    names = averaged_tasks(frame)
    if len(names) < 2:
        return []
    entries = {}
    for label in labels(frame):
        (entries[label],) = linked(
            [_average({task: task_scores(frame, task, label) for task in names})],
            (cell for task in names for cell in outcomes(frame, task)[label].cells),
        )
    return [Column("average", entries)]


def _average(found: Mapping[str, Mapping[int, float]]) -> Entry:
    lacking = [task for task, scores in found.items() if not scores]
    if lacking:
        return blank(f"no average without {', '.join(lacking)}")
    shared = set.intersection(*(set(scores) for scores in found.values()))
    if not shared:
        return blank("no seed finished every task")
    averages = [sum(scores[seed] for scores in found.values()) / len(found) for seed in sorted(shared)]
    return percent(mean_interval(averages))


def speedup_column(frame: Frame) -> list[Column]:
    """Draw the measured speed-up over the teacher under the headline conditions."""
    setting = headline(frame)
    if setting is None:
        return []
    return [Column("speed-up", {label: speedup_entry(frame, setting, label) for label in labels(frame)})]


def size(column: str, heading: str, unit: float) -> Callable[[Frame], list[Column]]:
    """Make the drawing of a cost: one number, or the range over tasks and seeds."""

    def draw(frame: Frame) -> list[Column]:
        done = frame.cells[frame.cells["status"] == "done"]
        shown = {label: blank("no finished cell") for label in labels(frame)}
        for label, cells in done.groupby("label"):
            (shown[str(label)],) = linked([quantity(cells[column], unit=unit)], cells["cell_id"])
        return [Column(heading, shown)]

    return draw


def _multiply_adds(frame: Frame) -> list[Column]:
    lengths = sorted({int(length) for length in frame.cells["length"].dropna()})
    tokens = " or ".join(map(str, lengths)) or "?"
    return size("multiply_adds", f"multiply-adds, {tokens} tokens (G)", 1e9)(frame)


MAIN: tuple[ColumnEntry, ...] = (
    ColumnEntry("score", captions.SCORES, score_columns),
    ColumnEntry("average", captions.AVERAGE, average_column),
    ColumnEntry("speedup", captions.SPEEDUP, speedup_column),
    ColumnEntry(
        "effective_encoder_parameters",
        captions.PARAMETERS,
        size("effective_encoder_parameters", "effective encoder parameters (M)", 1e6),
    ),
    ColumnEntry("effective_parameters", "", size("effective_parameters", "effective parameters (M)", 1e6)),
    ColumnEntry(
        "stored_encoder_parameters",
        "",
        size("stored_encoder_parameters", "stored encoder parameters (M)", 1e6),
    ),
    ColumnEntry("stored_parameters", "", size("stored_parameters", "stored parameters (M)", 1e6)),
    ColumnEntry("checkpoint_bytes", "", size("checkpoint_bytes", "checkpoint (MB)", 1e6)),
    ColumnEntry("multiply_adds", captions.MULTIPLY_ADDS, _multiply_adds),
)


def draw(frame: Frame, registry: Sequence[ColumnEntry] = MAIN) -> list[tuple[Column, str]]:
    """Draw all columns of a registry with what the caption owes each; entries with nothing to show say nothing."""
    return [
        (column, entry.note if number == 0 else "")
        for entry in registry
        for number, column in enumerate(entry.columns(frame))
    ]
