"""The defaults give every student the size of MoEBERT, so that a comparison is one of methods."""

from __future__ import annotations

from typing import Any

import pytest

from bench.method import Method
from bench.tasks.task import Task
from bench.toys import toy_batches, toy_teacher
from methods.distilbert import DistilBert
from methods.finetune import FineTune
from methods.moebert import MoEBert
from methods.prune_magnitude import PruneMagnitude
from methods.prune_structured import PruneStructured
from methods.tinybert import TinyBert


def encoder_size(method: Method, task: Task, **shape: Any) -> int:
    teacher = toy_teacher(task, **shape)
    student = method.compress(teacher, toy_batches(task), task)
    final = method.finalize(student, method.stages(teacher, student, task))
    return method.cost(final, 8).effective_encoder_parameters


@pytest.mark.parametrize("method", [FineTune, DistilBert, TinyBert, PruneMagnitude, PruneStructured])
@pytest.mark.parametrize("shape", [{"layers": 6, "hidden_size": 64}, {"layers": 12, "hidden_size": 32}])
def test_effective_encoder_parameters_are_moeberts_within_a_tenth(
    classification: Task, method: type[Method], shape: dict[str, int]
) -> None:
    size = encoder_size(method(), classification, **shape)
    assert size == pytest.approx(encoder_size(MoEBert(), classification, **shape), rel=0.1)
