"""Say roughly how long a matrix will take, from its arithmetic and a short probe of this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.executors.gpus import places
from bench.executors.processes import most_workers
from bench.plans import TEACHER
from bench.training import total_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.survey import Cell, Survey

FORWARD_AND_BACKWARD = 3  # a backward pass does the arithmetic of two forward passes
STUDENT = 0.5 * FORWARD_AND_BACKWARD + 1  # half of the teacher's layers, and the teacher's own forward pass
OVERHEAD_SECONDS = 8.0  # of a cell, or of a process of the clock: importing, loading, evaluating


def estimate_seconds(survey: Survey, cells: Sequence[Cell]) -> float:
    """Estimate the time of the cells and tries given; the clock and evaluation are counted in roughly."""
    rate = multiply_adds_per_second()
    plans = [*survey.plans, *(trials.plan for trials in survey.trials.values())]
    tasks = {plan.task.name: plan.task for plan in plans}
    train = {name: survey.encoded(task, "train").lengths for name, task in tasks.items()}
    forward = {name: _forward_multiply_adds(survey, float(lengths.mean())) for name, lengths in train.items()}
    seconds = []
    for cell in cells:
        rows, budget = len(train[cell.task]), cell.plan.budget
        examples = total_steps(rows, budget) * min(budget.batch_size, rows)
        factor = FORWARD_AND_BACKWARD if cell.plan.method == TEACHER else STUDENT
        seconds.append(examples * factor * forward[cell.task] / rate + OVERHEAD_SECONDS)
    workers = 1
    if survey.matrix.executor.name == "processes":
        plan = survey.matrix.executor
        workers = min(most_workers(plan.workers, places(plan)), len(seconds) or 1)
    clock = sum(plan.repeats for plan in survey.matrix.latency) * OVERHEAD_SECONDS
    return sum(seconds) / workers + clock


def multiply_adds_per_second() -> float:
    """Measure a matrix product of the shape of a feed-forward layer, as training would run it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = torch.randn(1024, 384, device=device), torch.randn(384, 1536, device=device)
    calls = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < 0.3:
        (left @ right)[0, 0].item()
        calls += 1
    return calls * left.shape[0] * right.numel() / elapsed


def _forward_multiply_adds(survey: Survey, length: float) -> float:
    """Return multiply-adds of the teacher's forward pass over one row of ``length`` tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(survey.checkpoint.folder, local_files_only=True)
    hidden, inner = config.hidden_size, config.intermediate_size
    token = config.num_hidden_layers * (4 * hidden * hidden + 2 * hidden * inner + 2 * hidden * length)
    return length * float(token)
