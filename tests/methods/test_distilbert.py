from __future__ import annotations

import pytest
import torch

from bench.tasks.task import Task
from bench.toys import toy_batches, toy_teacher
from methods.distilbert import DistilBert, DistilBertConfig
from methods.finetune import FineTune


def test_weights_are_the_papers_with_the_square_of_the_temperature(classification: Task) -> None:
    teacher = toy_teacher(classification)
    method = DistilBert()
    (stage,) = method.stages(teacher, method.compress(teacher, [], classification), classification)
    assert stage.objective.weights == {"kd": 5.0 * 4, "cos_2_4": 1.0, "labels": 2.0}


@pytest.mark.parametrize("left_out", ["kd_weight", "label_weight", "cosine_weight"])
def test_a_weight_of_zero_leaves_its_term_out(classification: Task, left_out: str) -> None:
    teacher = toy_teacher(classification)
    method = DistilBert(DistilBertConfig(**{left_out: 0.0}))
    (stage,) = method.stages(teacher, method.compress(teacher, [], classification), classification)
    assert len(stage.objective(toy_batches(classification)[0])) == 2


def test_a_student_that_is_the_teacher_has_no_angle_to_it(classification: Task) -> None:
    teacher = toy_teacher(classification)
    method = DistilBert(DistilBertConfig(layers=4))
    student = method.compress(teacher, [], classification).eval()
    (stage,) = method.stages(teacher, student, classification)
    assert abs(stage.objective(toy_batches(classification)[0])["cos_4_4"]) < 1e-6


def test_the_control_minimises_the_students_own_loss(classification: Task) -> None:
    teacher, batch = toy_teacher(classification), toy_batches(classification)[0]
    method = FineTune()
    student = method.compress(teacher, [], classification).eval()
    (stage,) = method.stages(teacher, student, classification)
    expected = torch.nn.functional.cross_entropy(student(**batch).logits, batch["labels"])
    torch.testing.assert_close(stage.objective(batch), {"labels": expected})
