from __future__ import annotations

import pytest
import torch

from bench.errors import UserError
from bench.tasks.task import Task
from bench.toys import HEADS, toy_batches, toy_task, toy_teacher
from methods.layers import not_bert, spread_layers, take_layers


@pytest.mark.parametrize(
    ("available", "wanted", "expected"),
    [
        (12, None, [1, 3, 5, 7, 9, 11]),
        (6, None, [1, 3, 5]),
        (5, None, [0, 2, 4]),
        (12, 4, [2, 5, 8, 11]),
        (12, 5, [1, 3, 6, 8, 11]),
        (4, 4, [0, 1, 2, 3]),
        (4, 1, [3]),
    ],
)
def test_layers_are_spread_and_end_with_the_last(
    classification: Task, available: int, wanted: int | None, expected: list[int]
) -> None:
    assert spread_layers(toy_teacher(classification, layers=available), wanted) == expected


@pytest.mark.parametrize("wanted", [0, 5])
def test_more_layers_than_the_teacher_has_is_an_error(classification: Task, wanted: int) -> None:
    with pytest.raises(UserError, match="the teacher has 4, choose 1 to 4"):
        spread_layers(toy_teacher(classification), wanted)


@pytest.mark.parametrize("head", HEADS)
def test_all_layers_taken_is_the_teacher_but_trainable(head: str) -> None:
    task = toy_task(head)  # type: ignore[arg-type]
    teacher, batch = toy_teacher(task), toy_batches(task)[0]
    student = take_layers(teacher, range(4)).eval()
    torch.testing.assert_close(student(**batch).to_tuple(), teacher(**batch).to_tuple(), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not {p.data_ptr() for p in student.parameters()} & {p.data_ptr() for p in teacher.parameters()}


def test_taken_layers_are_the_chosen_ones(classification: Task) -> None:
    teacher = toy_teacher(classification, layers=12)
    student = take_layers(teacher, [2, 10])
    assert student.config.num_hidden_layers == 2
    assert teacher.config.num_hidden_layers == 12
    for index, layer in enumerate([2, 10]):
        ours, its = student.bert.encoder.layer[index], teacher.bert.encoder.layer[layer]
        torch.testing.assert_close(ours.state_dict(), its.state_dict(), rtol=0, atol=0)
    for part in ("embeddings", "pooler"):
        ours, its = getattr(student.bert, part), getattr(teacher.bert, part)
        torch.testing.assert_close(ours.state_dict(), its.state_dict(), rtol=0, atol=0)


def test_a_teacher_that_is_no_bert_is_skipped_with_its_kind(classification: Task) -> None:
    teacher = toy_teacher(classification)
    assert not_bert(teacher) is None
    teacher.config.model_type = "roberta"
    skip = not_bert(teacher)
    assert skip is not None
    assert skip.reason == "needs a BERT teacher, not a roberta"
