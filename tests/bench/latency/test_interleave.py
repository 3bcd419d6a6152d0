from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from bench.latency.interleave import interleave, stopwatch_for

if TYPE_CHECKING:
    from bench.latency.runtimes import Run


class Scripted:
    """Calls that note who ran on which batch; the stopwatch returns the number of the call."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def run(self, name: str, *, fails_at: int | None = None) -> Run:
        def call(index: int) -> None:
            self.seen.append((name, index))
            if fails_at is not None and sum(seen == name for seen, _ in self.seen) > fails_at:
                raise RuntimeError(f"{name} has had\nenough")

        return call

    def stopwatch(self, run: Run, index: int) -> float:
        run(index)
        return float(len(self.seen))

    @property
    def order(self) -> str:
        return "".join(name for name, _ in self.seen)


def test_every_call_follows_one_of_the_other_side() -> None:
    script = Scripted()
    laps = interleave(script.run("A"), script.run("B"), batches=1, rounds=3, stopwatch=script.stopwatch)
    assert script.order == "ABABAB"
    assert laps.baseline_ms == [1, 3, 5]
    assert laps.candidate_ms == [2, 4, 6]
    assert laps.failure == ""


def test_what_stays_in_a_cache_is_no_advantage_of_either_side() -> None:
    """A cache that holds the weights of the last two models: whoever ran seldom would be read from memory."""
    recent: list[Run] = []

    def stopwatch(run: Run, index: int) -> float:
        milliseconds = 1.0 if run in recent[-2:] else 2.0
        recent.append(run)
        return milliseconds

    script = Scripted()
    baseline = script.run("A")
    warmup = 1
    for name in "ABCD":
        laps = interleave(baseline, script.run(name), batches=1, rounds=warmup + 4, stopwatch=stopwatch)
        assert laps.candidate_ms[warmup:] == laps.baseline_ms[warmup:] == [1.0] * 4


def test_both_calls_of_a_round_process_the_same_batch() -> None:
    script = Scripted()
    interleave(script.run("A"), script.run("B"), batches=3, rounds=5, stopwatch=script.stopwatch)
    assert [index for _, index in script.seen] == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1]


def test_a_candidate_that_fails_ends_the_laps_and_says_why() -> None:
    script = Scripted()
    failing = script.run("C", fails_at=1)
    laps = interleave(script.run("A"), failing, batches=1, rounds=6, stopwatch=script.stopwatch)
    assert laps.failure == "the candidate cannot be run: RuntimeError: C has had enough"
    assert script.order == "ACAC"


def test_a_baseline_that_fails_is_named() -> None:
    script = Scripted()
    baseline = script.run("A", fails_at=0)
    laps = interleave(baseline, script.run("B"), batches=1, rounds=3, stopwatch=script.stopwatch)
    assert laps.failure == "the baseline cannot be run: RuntimeError: A has had enough"
    assert script.order == "A"


def test_the_cpu_stopwatch_says_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([5_000_000, 12_500_000])
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(ticks))
    assert stopwatch_for(torch.device("cpu"))(lambda _: None, 0) == 7.5


@pytest.mark.gpu
def test_the_cuda_stopwatch_waits_for_the_kernels() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(8192, 8192, device=device)
    stopwatch = stopwatch_for(device)

    def products(count: int) -> float:
        return stopwatch(lambda _: [matrix @ matrix for _ in range(count)], 0)

    products(4)
    assert products(16) == pytest.approx(4 * products(4), rel=0.3)
    assert products(4) > 5  # 8192 cubed, four times: a launch alone takes microseconds
