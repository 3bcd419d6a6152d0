"""Time a candidate beside the baseline, call by call, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
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


def interleave(baseline: Run, candidate: Run, *, batches: int, rounds: int, stopwatch: Stopwatch) -> Laps:
    """Run A B A B …, so that calls side by side are compared; the two calls of a round process the same batch.

    One candidate at a time: where all took turns, A B A C A D, the baseline's weights were used every second call and a
    candidate's seldom. On a GPU a small model against itself came out 6 % slower, as its weights had left the cache.

    Args:
        baseline: Call to compare with.
        candidate: The other call; where one of the two fails, the laps end there and name it.
        batches: Number of batches to go through in turn.
        rounds: Calls of each.
        stopwatch: Runs a call on a batch and returns its milliseconds.
    """
    laps = Laps()
    sides = [("baseline", baseline, laps.baseline_ms), ("candidate", candidate, laps.candidate_ms)]
    for number in range(rounds):
        for side, run, milliseconds in sides:
            try:
                milliseconds.append(stopwatch(run, number % batches))
            except Exception as error:  # noqa: BLE001  a method's forward may raise anything
                laps.failure = f"the {side} cannot be run: {describe(error)}"
                return laps
    return laps


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
