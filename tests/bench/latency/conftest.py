from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_inputs import CLS, SEP, Rows, toy_inputs

from bench.latency import worker
from bench.latency.clock import TimingRequest
from bench.latency.job import ANSWER, JOB, Answer, MemoryJob, Setting, TimedModel, TimeJob, read_batches
from bench.latency.processes import Processes
from bench.toys import LENGTH, toy_task, toy_teacher


@pytest.fixture
def sentences() -> Rows:
    """Rows of 1 to 20 words; no word occurs in two rows."""
    words = iter(range(1000, 9999))
    ids = [[CLS, *(next(words) for _ in range(count)), SEP] for count in [3, 20, 1, 7, 12, 5, 9, 2, 16, 11]]
    return Rows(ids, [[0] * len(row) for row in ids])


@pytest.fixture
def pairs() -> Rows:
    """Pairs of sentences: words of the first are 1000 to 1999, of the second 2000 to 2999."""
    rng = np.random.default_rng(0)
    ids, types = [], []
    for _ in range(30):
        first, second = (
            rng.integers(1000, 2000, rng.integers(1, 15)),
            rng.integers(2000, 3000, rng.integers(1, 40)),
        )
        ids.append([CLS, *first.tolist(), SEP, *second.tolist(), SEP])
        types.append([0] * (len(first) + 2) + [1] * (len(second) + 1))
    return Rows(ids, types)


PLUGINS = '''
import os
from pydantic import BaseModel
from bench.method import Method, Skip

class NoKnobs(BaseModel):
    pass

class Plain(Method):
    name, summary, paper, Config = "plain", "loads what was saved", "", NoKnobs

    def compress(self, teacher, calibration, task):
        return teacher

class Twice(Plain):
    """A planted slowdown."""

    def load(self, folder, task):
        model = super().load(folder, task)
        once = model.forward

        def forward(input_ids=None, attention_mask=None, token_type_ids=None):
            once(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            return once(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)

        model.forward = forward
        return model

class Breaks(Plain):
    def load(self, folder, task):
        model = super().load(folder, task)

        def forward(input_ids=None):
            raise RuntimeError("no kernel for this")

        model.forward = forward
        return model

class Aborts(Plain):
    def load(self, folder, task):
        os.abort()

class AloneOnly(Plain):
    def runs(self, runtime, workload):
        return Skip(f"{runtime} takes one row at a time") if workload.batch_size > 1 else None
'''
ENTRY_POINTS = """[moebench.methods]
twice = clock_plugins:Twice
breaks = clock_plugins:Breaks
aborts = clock_plugins:Aborts
alone-only = clock_plugins:AloneOnly
"""


@pytest.fixture
def request_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TimingRequest]:
    """Make requests about a toy teacher, with methods that misbehave registered as a third party's would be."""
    plugins = tmp_path / "plugins"
    (plugins / "clock_plugins-1.dist-info").mkdir(parents=True)
    (plugins / "clock_plugins.py").write_text(PLUGINS)
    (plugins / "clock_plugins-1.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (plugins / "clock_plugins-1.dist-info" / "METADATA").write_text("Name: clock-plugins\nVersion: 1\n")
    monkeypatch.syspath_prepend(str(plugins))
    monkeypatch.setenv("PYTHONPATH", str(plugins), prepend=os.pathsep)
    task = toy_task("classification")
    toy_teacher(task).save_pretrained(tmp_path / "teacher")

    def make(*methods: str, **changes: Any) -> TimingRequest:
        candidates = tuple(TimedModel(name, tmp_path / "teacher", name) for name in methods)
        fields: dict[str, Any] = {
            "batches": {"1x8": toy_inputs(1, 8), f"4x{LENGTH}": toy_inputs(4, LENGTH)},
            "repeats": 2,
            "warmup": 1,
            "rounds": 3,
            "memory": False,
        }
        baseline = TimedModel("baseline", tmp_path / "teacher")
        return TimingRequest(Setting(task), baseline, candidates, **(fields | changes))

    return make


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[TimeJob | MemoryJob]:
    """Do the jobs in this process, through the same JSON, and note them."""
    seen: list[TimeJob | MemoryJob] = []

    def ask(processes: Processes, job: TimeJob | MemoryJob) -> Answer:
        job = JOB.validate_json(JOB.dump_json(job))
        seen.append(job)
        inputs = read_batches(processes.folder / "batches.safetensors")
        answer = worker._time(job, inputs) if isinstance(job, TimeJob) else worker._weigh(job, inputs)
        return ANSWER.validate_json(ANSWER.dump_json(answer))

    monkeypatch.setattr(Processes, "ask", ask)
    return seen
