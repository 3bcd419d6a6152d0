from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.record import LatencyRecord, Repeat, WorkloadRecord
from results.timing import RESAMPLES, _draws, _medians_of_draws, foreign_load, summarise, summarise_all

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.json"))


def replay(file: Path) -> LatencyRecord:
    return LatencyRecord.model_validate_json(file.read_text())


def timing(
    baseline: Any,
    candidate: Any,
    *,
    length: int | None = 32,
    load: float = 1.0,
    warmup: int = 0,
    **changes: Any,
) -> LatencyRecord:
    """Make a record of ``[repeats, calls]`` milliseconds."""
    repeats = [
        Repeat(warmup=warmup, baseline_ms=list(b), candidate_ms=list(c), load_average=(0.5, load))
        for b, c in zip(np.asarray(baseline).tolist(), np.asarray(candidate).tolist(), strict=True)
    ]
    fields = {"status": "done", "repeats": repeats, "threads": 1, "environment": ""} | changes
    return LatencyRecord(
        id="made-up",
        suite_version="",
        started="",
        finished="",
        cell_id="",
        baseline_id="",
        task="",
        method="",
        label="",
        seed=0,
        workload=WorkloadRecord(name="8x32", batch_size=8, length=length),
        runtime="eager",
        device="cpu",
        dtype="fp32",
        **fields,
    )


def steady(milliseconds: float, *, repeats: int = 3, calls: int = 20) -> np.ndarray:
    """Make calls that vary by a per cent around a time."""
    return milliseconds * (1 + 0.01 * np.sin(np.arange(repeats * calls))).reshape(repeats, calls)


def test_percentiles_are_those_of_all_counted_calls() -> None:
    calls = np.arange(1.0, 121.0).reshape(3, 40)
    summary = summarise(timing(2 * calls, calls, warmup=10))
    counted = calls[:, 10:]
    assert summary.calls == 90
    assert [summary.p50_ms, summary.p90_ms, summary.p99_ms] == np.percentile(counted, [50, 90, 99]).tolist()
    assert summary.baseline_p90_ms == np.percentile(2 * counted, 90)
    assert summary.baseline_p99_ms == np.percentile(2 * counted, 99)
    assert summary.throughput_per_s == pytest.approx(8 * 90 / (counted.sum() / 1000))
    assert summary.baseline_throughput_per_s == pytest.approx(summary.throughput_per_s / 2)


def test_warm_ups_never_count() -> None:
    slow_start = np.concatenate([np.full((3, 4), 500.0), steady(10)], axis=1)
    summary = summarise(timing(slow_start, slow_start / 2, warmup=4))
    assert summary == summarise(timing(steady(10), steady(10) / 2))
    assert summary.speedup == pytest.approx(2)


def test_speedup_compares_within_processes_before_it_compares_processes() -> None:
    # each process runs at a speed of its own; side by side the candidate is always twice as fast
    luck = np.array([[1.0], [3.0], [0.5]])
    summary = summarise(timing(luck * steady(10), luck * steady(5)))
    assert summary.speedup == pytest.approx(2, rel=0.01)
    assert summary.speedup_high - summary.speedup_low < 0.05


def test_one_unlucky_process_does_not_decide() -> None:
    candidate = steady(5, repeats=5)
    candidate[2] *= 4
    summary = summarise(timing(steady(10, repeats=5), candidate))
    assert summary.speedup == pytest.approx(2, rel=0.01)
    assert summary.speedup_low < 1.9


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), repeats=st.integers(1, 6))
def test_swapping_the_sides_inverts_the_speedup(seed: int, repeats: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.lognormal(1, 0.1, (2, repeats, 9))
    there, back = summarise(timing(a, b)), summarise(timing(b, a))
    assert there.speedup * back.speedup == pytest.approx(1)
    assert there.speedup_low <= there.speedup <= there.speedup_high


def test_the_same_record_gives_the_same_numbers() -> None:
    rng = np.random.default_rng(1)
    record = timing(rng.lognormal(1, 0.1, (3, 20)), rng.lognormal(1, 0.1, (3, 20)))
    assert summarise(record) == summarise(record)


@pytest.mark.parametrize("between", [0.0, 0.02])
def test_intervals_hold_the_truth_as_often_as_they_say(between: float) -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(100):
        luck = rng.lognormal(np.log(1.5), between, (5, 1))
        summary = summarise(timing(luck * rng.lognormal(1, 0.03, (5, 20)), rng.lognormal(1, 0.03, (5, 20))))
        held += summary.speedup_low <= 1.5 <= summary.speedup_high
    assert held >= 93


def test_steady_timings_have_no_warning() -> None:
    assert summarise(timing(steady(10), steady(7))).warnings == ()


def with_call(value: float, side: np.ndarray) -> np.ndarray:
    changed = side.copy()
    changed[1, 5] = value
    return changed


@pytest.mark.parametrize(
    ("record", "warning"),
    [
        (
            timing(steady(10), 5 + steady(5) * np.tile([0.8, 1.2, 1.0, 1.0, 1.0], 4)),
            None,
        ),
        (
            timing(steady(10), steady(10) * np.tile([0.85, 1.15], 10)),
            "spread: standard deviation of the candidate 15% of its mean (threshold 10%)",
        ),
        (timing(steady(10), with_call(14.0, steady(10))), None),
        (
            timing(with_call(16.0, steady(10)), steady(10)),
            "extremes: a call of the baseline 60% from the median (threshold 50%)",
        ),
        (timing(steady(10), steady(10) * [[1.0], [1.05], [1.0]]), None),
        (
            timing(steady(10), steady(10) * [[1.0], [1.25], [1.0]]),
            "repeats disagree: median candidate differs by 25% (threshold 10%)",
        ),
        (timing(steady(10), steady(10), load=1.9), None),
        (
            timing(steady(10), steady(10), load=3.5),
            "load average high: 2.5 beyond our 1 thread(s) (threshold 1.0)",
        ),
        (timing(steady(10), steady(10), load=3.5, threads=3), None),
        (timing(steady(10, repeats=2), steady(10, repeats=2)), "too few repeats: 2 (threshold 3)"),
    ],
)
def test_each_warning_has_its_threshold(record: LatencyRecord, warning: str | None) -> None:
    warnings = summarise(record).warnings
    if warning is None:
        assert warnings == ()
    else:
        assert warning in warnings


def test_a_large_machine_may_do_something_else_beside_the_clock() -> None:
    assert [foreign_load(1, cores) for cores in (None, 1, 2, 4, 5, 16, 64)] == [1, 1, 1, 1, 1, 3.75, 15.75]
    assert foreign_load(60, 64) == 1  # the timed threads leave it as few cores as a small one has
    calls = steady(10)
    ours, unknown = (timing(calls, calls, load=13.0, environment=name) for name in ("large", "not kept"))
    busy = timing(calls, calls, load=17.0, environment="large")
    found = [summary.warnings for summary in summarise_all([ours, unknown, busy], {"large": 64})]
    assert found == [
        (),
        ("load average high: 12.0 beyond our 1 thread(s) (threshold 1.0)",),
        ("load average high: 16.0 beyond our 1 thread(s) (threshold 15.8)",),
    ]
    assert summarise(ours, cores=64).warnings == ()


def test_batches_of_different_lengths_are_no_noise_where_both_sides_share_them() -> None:
    lengths = np.tile([1.0, 3.0, 2.0, 4.0], 5) * np.ones((3, 1))
    real = summarise(timing(10 * lengths, 5 * lengths, length=None))
    assert real.warnings == ()
    assert real.speedup == pytest.approx(2)
    fixed = summarise(timing(10 * lengths, 5 * lengths)).warnings
    assert any(warning.startswith("spread") for warning in fixed)
    noisy = summarise(timing(10 * lengths, with_call(60.0, 5 * lengths), length=None)).warnings
    assert any(warning.startswith("extremes: a call of the ratio") for warning in noisy)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (timing(steady(1), steady(1), status="failed"), "made-up is failed with 3 repeats"),
        (timing(steady(1), steady(1), repeats=[]), "made-up is done with 0 repeats"),
        (timing(steady(1), steady(1), warmup=20), "made-up, repeat 1: 20 calls, and 20 of them are warm-up"),
        (timing(steady(1), steady(1, calls=19)), "20 calls of the baseline, 19 of the candidate"),
        (timing(steady(1), with_call(0.0, steady(1))), "made-up, repeat 2: a call took no time"),
        (
            timing(with_call(np.nan, steady(1)), steady(1)),
            "made-up, repeat 2: a call took no time, or none that is",
        ),
    ],
)
def test_a_record_that_cannot_be_is_refused(record: LatencyRecord, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summarise(record)


def recorded(variant: str) -> Any:
    """Parametrise over the recordings of one variant, whatever the machine was doing meanwhile."""
    files = [file for file in RECORDINGS if f"-{variant}-" in file.name]
    assert len(files) >= 2, f"no recordings of {variant!r} in {RECORDINGS}"
    return pytest.mark.parametrize("file", files, ids=[file.stem for file in files])


@recorded("same")
def test_identical_models_are_not_told_apart(file: Path) -> None:
    summary = summarise(replay(file))
    assert summary.speedup_low <= 1 <= summary.speedup_high
    assert summary.speedup == pytest.approx(1, abs=0.05)


@recorded("double")
def test_a_model_with_all_layers_twice_is_found_to_be_slower(file: Path) -> None:
    summary = summarise(replay(file))
    assert summary.speedup_high < 0.6
    assert summary.speedup == pytest.approx(0.5, abs=0.05)


@recorded("half")
def test_half_of_the_layers_take_half_of_the_time(file: Path) -> None:
    summary = summarise(replay(file))
    assert summary.speedup_low > 1.7
    assert summary.speedup == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(
    "file", [file for file in RECORDINGS if file.name.startswith("busy-")], ids=lambda f: f.stem
)
def test_a_busy_machine_is_said_to_be_one(file: Path) -> None:
    assert any(warning.startswith("load average high") for warning in summarise(replay(file)).warnings)


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.stem)
def test_recordings_hold_what_the_clock_promises(file: Path) -> None:
    record = replay(file)
    assert len(record.repeats) == 5
    for repeat in record.repeats:
        assert len(repeat.baseline_ms) == len(repeat.candidate_ms) == repeat.warmup + 20
    summary = summarise(record)
    assert summary.calls == 100
    assert summary.p50_ms <= summary.p90_ms <= summary.p99_ms
    assert summary.throughput_per_s == pytest.approx(8000 / summary.p50_ms, rel=0.5)
    assert record.repeats[0].candidate_peak_memory_bytes is not None


@pytest.mark.parametrize("calls", [1, 2, 7, 8, 60, 255, 256, 300])
def test_the_median_of_a_draw_is_that_of_its_sorted_calls(calls: int) -> None:
    values = np.random.default_rng(calls).integers(1, 20, (3, 2, calls)).astype(float)  # with ties
    ((places, resamples, counts),) = _draws((calls,))
    assert places.tolist() == [0] * RESAMPLES  # of one process
    assert resamples.tolist() == list(range(counts.shape[1])) == list(range(RESAMPLES))
    assert (counts.sum(axis=0) == calls).all()
    draws = [np.repeat(np.arange(calls), column.astype(int)) for column in counts.T]
    expected = np.median(values[:, :, np.array(draws)], axis=-1)
    assert np.array_equal(_medians_of_draws(values, counts), expected)


def test_timings_summed_up_together_are_those_summed_up_alone() -> None:
    random = np.random.default_rng(0)
    records = [
        timing(random.uniform(1, 2, (repeats, calls)), random.uniform(1, 2, (repeats, calls)), length=length)
        for repeats, calls, length in [(3, 8, 32), (1, 1, 32), (3, 8, None), (2, 200, 32), (3, 8, 32)] * 30
    ]
    assert summarise_all(records) == [summarise(record) for record in records]
