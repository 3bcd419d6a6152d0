from __future__ import annotations

import pytest
import torch

from bench.errors import UserError
from bench.tasks.task import Task
from bench.toys import HEADS, toy_batches, toy_task, toy_teacher
from methods.narrowing import narrow


@pytest.mark.parametrize("head", HEADS)
def test_the_full_width_is_the_model_itself(head: str) -> None:
    task = toy_task(head)  # type: ignore[arg-type]
    teacher, batch = toy_teacher(task), toy_batches(task)[0]
    student = narrow(teacher, 32).eval()
    torch.testing.assert_close(student(**batch).to_tuple(), teacher(**batch).to_tuple(), rtol=0, atol=0)


def test_dimensions_that_carry_nothing_are_the_ones_left_out(classification: Task) -> None:
    """Plant a narrow model in a wide one: every second dimension, pair and neuron is dead; narrowing finds it."""
    teacher = toy_teacher(classification)
    with torch.no_grad():
        teacher.bert.embeddings.word_embeddings.weight[:, 1::2] = 0
        for layer in teacher.bert.encoder.layer:
            attention = layer.attention
            for linear in (attention.self.query, attention.self.value, layer.intermediate.dense):
                linear.weight[1::2] = 0
    student = narrow(teacher, 16)
    assert student.config.hidden_size == 16
    assert student.config.intermediate_size == 64
    positions = [model.bert.embeddings.position_embeddings.weight for model in (student, teacher)]
    torch.testing.assert_close(positions[0], positions[1][:, ::2], rtol=0, atol=0)
    for old, new in zip(teacher.bert.encoder.layer, student.bert.encoder.layer, strict=True):
        for path in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        ):
            wide, thin = old.get_submodule(path), new.get_submodule(path)
            torch.testing.assert_close(thin.weight, wide.weight[::2, ::2], rtol=0, atol=0)
            torch.testing.assert_close(thin.bias, wide.bias[::2], rtol=0, atol=0)
    torch.testing.assert_close(student.classifier.weight, teacher.classifier.weight[:, ::2], rtol=0, atol=0)
    torch.testing.assert_close(student.bert.pooler.dense.weight, teacher.bert.pooler.dense.weight[::2, ::2])


@pytest.mark.parametrize("width", [30, 64])
def test_a_width_that_does_not_fit_is_an_error(classification: Task, width: int) -> None:
    with pytest.raises(UserError, match=f"hidden_size={width}: choose a multiple of the 4 heads, at most 32"):
        narrow(toy_teacher(classification), width)
