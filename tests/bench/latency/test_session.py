from __future__ import annotations

import pytest
import torch

from bench.errors import UserError
from bench.latency.worker import DTYPES, set_precision
from bench.matrix import load_matrix
from bench.run import run
from bench.survey import Survey
from results.record import LatencyRecord
from results.store import RunFolder

CLOCK = {"workloads": ["1x8"], "repeats": 1, "rounds": 2, "warmup": 0, "memory": False}
METHODS = [{"finetune": {"layers": 1}}, {"finetune": {"layers": 2}}, "prune-magnitude"]


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


def test_a_plan_may_grow_without_timing_anything_twice(tiny_matrix, tmp_path):
    def timings(**plan):
        matrix = load_matrix(str(tiny_matrix), {"methods": METHODS, "latency": [CLOCK | plan]})
        run(matrix, tmp_path / "run")
        records = RunFolder(tmp_path / "run").records()
        return {one.id: one.finished for one in records if isinstance(one, LatencyRecord)}

    first = timings(methods=["prune-magnitude"])
    second = timings(workloads=["1x8", "2x8"], workloads_at_once=1)
    assert len(second) == 2 * (len(METHODS) + 1)
    assert first.items() <= second.items()


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
