from __future__ import annotations

import pytest
import torch

from bench.errors import UserError
from bench.latency import session
from bench.latency.clock import Point, Timing
from bench.latency.worker import DTYPES, set_precision
from bench.matrix import load_matrix
from bench.run import run
from bench.survey import Survey
from results.record import LatencyRecord, Repeat
from results.store import RunFolder

CLOCK = {"workloads": ["1x8"], "repeats": 1}
METHODS = [{"finetune": {"layers": 1}}, {"finetune": {"layers": 2}}, "prune-magnitude"]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that needs no processes, as the list of what it timed: not how long it takes is the question here."""
    timed = []

    def tick(request, runtimes, known, workloads_at_once):
        repeat = Repeat(warmup=0, baseline_ms=[2.0, 2.0], candidate_ms=[1.0, 1.0], load_average=(0.0, 0.0))
        for runtime in runtimes:
            for workload in request.batches:
                for model in request.candidates:
                    point = Point(model.id, workload, runtime)
                    if point not in known:
                        timed.append(point)
                        yield point, Timing("done", repeats=(repeat,))

    monkeypatch.setattr(session, "time_grid", tick)
    return timed


@pytest.mark.parametrize(
    ("methods", "timed"),
    [
        (["prune-magnitude", "finetune[layers=1]"], ["finetune[layers=1]", "prune-magnitude", "teacher"]),
        (["finetune"], ["finetune[layers=1]", "finetune[layers=2]", "teacher"]),
    ],
)
def test_a_plan_times_the_methods_it_names_and_the_teacher(tiny_matrix, tmp_path, methods, timed):
    matrix = load_matrix(str(tiny_matrix), {"methods": METHODS, "latency": [CLOCK | {"methods": methods}]})
    assert run(matrix, tmp_path / "run").failures == []
    records = [one for one in RunFolder(tmp_path / "run").records() if isinstance(one, LatencyRecord)]
    assert sorted(one.label for one in records) == timed


def test_a_plan_may_grow_without_timing_anything_twice(tiny_matrix, tmp_path, clock):
    for plan in (
        {"methods": ["prune-magnitude"]},
        {"workloads": ["1x8", "2x8"], "workloads_at_once": 1},
    ):
        matrix = load_matrix(str(tiny_matrix), {"methods": METHODS, "latency": [CLOCK | plan]})
        run(matrix, tmp_path / "run")
    assert len(clock) == len(set(clock)) == 2 * (len(METHODS) + 1)
    run(
        load_matrix(str(tiny_matrix), {"methods": METHODS, "latency": [CLOCK | {"rounds": 5}]}),
        tmp_path / "run",
    )
    assert len(clock) == 3 * (len(METHODS) + 1), "other rounds are another timing"


def test_an_unknown_method_of_a_plan_is_named_with_those_there_are(tiny_matrix, tmp_path):
    matrix = load_matrix(str(tiny_matrix), {"latency": CLOCK | {"methods": ["fintune"]}})
    with pytest.raises(UserError, match=r"latency.methods: unknown method 'fintune'.*finetune"):
        Survey(matrix, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_tf32_rounds_the_operands_of_fp32(dtype):
    before = torch.get_float32_matmul_precision()
    try:
        set_precision(dtype)
        assert torch.get_float32_matmul_precision() == ("high" if dtype == "tf32" else "highest")
    finally:
        torch.set_float32_matmul_precision(before)
