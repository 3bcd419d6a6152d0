from __future__ import annotations

from pathlib import Path

import torch

from bench.latency.job import (
    ANSWER,
    JOB,
    Answer,
    MemoryJob,
    Sample,
    Setting,
    TimedModel,
    TimeJob,
    read_batches,
    write_batches,
)
from bench.toys import toy_task
from results.record import Repeat

SETTING = Setting(toy_task("extractive-qa"), "eager", "cpu", "bf16", 3)
MODEL = TimedModel("a", Path("/models/a"), "prune", {"sparsity": 0.5, "layers": [1, 2]})


def test_jobs_and_answers_survive_the_way_between_processes() -> None:
    jobs = [
        TimeJob(SETTING, TimedModel("t", Path("t")), (MODEL,), (("a", "8x32"), ("a", "1xreal")), 2, 20),
        MemoryJob(SETTING, MODEL, ("1xreal", "8x32")),
    ]
    for job in jobs:
        assert JOB.validate_json(JOB.dump_json(job)) == job
    repeat = Repeat(warmup=1, baseline_ms=[0.1, 1 / 3], candidate_ms=[0.2, 2 / 3], load_average=(0.5, 0.25))
    answer = Answer(
        (Sample("a", "8x32", "done", repeat=repeat, warnings=("hot",)), Sample("b", "8x32", "failed", "why")),
        {"8x32": 2**40},
    )
    assert ANSWER.validate_json(ANSWER.dump_json(answer)) == answer


def test_batches_keep_their_order_names_and_types(tmp_path: Path) -> None:
    batches = {
        "2x8": [{"input_ids": torch.full((2, 8), i), "attention_mask": torch.ones(2, 8)} for i in range(12)],
        "1xreal": [{"input_ids": torch.arange(10).reshape(5, 2).T}],  # not contiguous
    }
    write_batches(batches, tmp_path / "batches")
    found = read_batches(tmp_path / "batches")
    assert set(found) == set(batches)
    for workload, listed in batches.items():
        for batch, again in zip(listed, found[workload], strict=True):
            assert set(batch) == set(again)
            assert all(torch.equal(again[name], tensor) for name, tensor in batch.items())
            assert all(again[name].dtype == tensor.dtype for name, tensor in batch.items())


def test_a_batch_that_shares_memory_with_another_can_be_written(tmp_path: Path) -> None:
    ids = torch.arange(16).reshape(2, 8)
    write_batches({"2x8": [{"input_ids": ids, "token_type_ids": ids}]}, tmp_path / "batches")
    assert torch.equal(read_batches(tmp_path / "batches")["2x8"][0]["token_type_ids"], ids)
