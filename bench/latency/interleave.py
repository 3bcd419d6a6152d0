"""Time candidates beside the baseline, call by call, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from bench.latency.runtimes import Run

Stopwatch = Callable[["Run", int], float]


@dataclass
class Laps:
    """Milliseconds of each call, pair by pair; ``failure`` says which side ended them and how."""

    baseline_ms: list[float] = field(default_factory=list)
    candidate_ms: list[float] = field(default_factory=list)
    failure: str = ""


def interleave(
    baseline: Run, candidates: Mapping[str, Run], *, batches: int, rounds: int, stopwatch: Stopwatch
) -> dict[str, Laps]:
    """Run A B A C A D, round by round, so that every candidate has baseline calls of its own right beside it.

    Who goes first alternates from round to round, and the candidates take turns in opening a round: what one call
    leaves in the caches is then no advantage of any. All calls of a round process the same batch.
    A candidate that fails drops out; the others go on.

    Args:
        baseline: Call to compare with.
        candidates: Calls by name.
        batches: Number of batches to go through in turn.
        rounds: Calls of each candidate.
        stopwatch: Runs a call on a batch and returns its milliseconds.
    """
    laps = {name: Laps() for name in candidates}
    for number in range(rounds):
        for name in _rotated([name for name in candidates if not laps[name].failure], number):
            own = laps[name]
            sides = [
                ("baseline", baseline, own.baseline_ms),
                ("candidate", candidates[name], own.candidate_ms),
            ]
            for side, run, milliseconds in sides if number % 2 == 0 else reversed(sides):
                try:
                    milliseconds.append(stopwatch(run, number % batches))
                except Exception as error:  # noqa: BLE001  a method's forward may raise anything
                    own.failure = f"the {side} cannot be run: {describe(error)}"
                    break
    return laps


def _rotated(names: list[str], by: int) -> list[str]:
    start = by % len(names) if names else 0
    return [*names[start:], *names[:start]]


def describe(error: Exception) -> str:
    """Say an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def stopwatch_for(device: torch.device) -> Stopwatch:
    """Return the stopwatch of a device."""
    return _cuda_ms if device.type == "cuda" else _cpu_ms


def _cpu_ms(run: Run, index: int) -> float:
    start = time.perf_counter_ns()
    run(index)
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_ms(run: Run, index: int) -> float:
    """Time from the idle device to the end of the last kernel: gaps between launches count, as they do for a user."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run(index)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
