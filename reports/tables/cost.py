"""What a checkpoint weighs and what it took to make it, by task."""

from __future__ import annotations

from reports import captions
from reports.entries import Entry, Group, Table, linked, quantity
from reports.outcomes import labels, tasks
from results.frame import Frame

# Heading -> column of the cells, unit.
COLUMNS: dict[str, tuple[str, float]] = {
    "effective encoder parameters (M)": ("effective_encoder_parameters", 1e6),
    "effective parameters (M)": ("effective_parameters", 1e6),
    "stored encoder parameters (M)": ("stored_encoder_parameters", 1e6),
    "stored parameters (M)": ("stored_parameters", 1e6),
    "checkpoint (MB)": ("checkpoint_bytes", 1e6),
    "multiply-adds (G)": ("multiply_adds", 1e9),
    "tokens of that sequence": ("length", 1),
    "peak memory of training (MB)": ("training_peak_memory_bytes", 1e6),
    "training (s)": ("training_seconds", 1),
}


def cost_tables(frame: Frame) -> list[Table]:
    """Draw one block a task; seeds that differ show a range."""
    done = frame.cells[frame.cells["status"] == "done"]
    if done.empty:
        return []
    rows: list[tuple[Entry, ...]] = []
    groups: dict[int, Group] = {}
    by_cell = dict(tuple(done.groupby(["task", "label"])))
    memory = _inference_memory(frame)
    for task in tasks(frame):
        groups[len(rows)] = Group(task, task)
        for label in labels(frame):
            if (task, label) in by_cell:
                cells = by_cell[task, label]
                sizes = [quantity(cells[column], unit=unit) for column, unit in COLUMNS.values()]
                row = (Entry(label), *sizes, quantity(memory.get((task, label), []), unit=1e6))
                rows.append(linked(row, cells["cell_id"]))
    headings = ("method", *COLUMNS, "peak memory of inference (MB)")
    notes = (
        *captions.conditions(frame),
        captions.PARAMETERS,
        "Peak memory of inference is the largest over the timed workloads; a range runs over seeds.",
    )
    return [Table("cost", "Cost of each checkpoint", headings, tuple(rows), notes, groups)]


def _inference_memory(frame: Frame) -> dict[tuple[str, str], list[float]]:
    done = frame.latency[frame.latency["status"] == "done"].dropna(subset=["peak_memory_bytes"])
    largest = done.groupby(["task", "label", "seed"])["peak_memory_bytes"].max()
    return {(str(key[0]), str(key[1])): list(values) for key, values in largest.groupby(["task", "label"])}
