from __future__ import annotations

import pytest
import torch

from bench.tasks.task import Task
from bench.toys import toy_batches, toy_teacher
from methods.tinybert import TinyBert, TinyBertConfig


def test_first_stage_matches_embeddings_scores_and_states_uniformly(classification: Task) -> None:
    teacher = toy_teacher(classification, layers=6)
    method = TinyBert(TinyBertConfig(layers=3, attention_weight=2.0))
    inside, outside = method.stages(teacher, method.compress(teacher, [], classification), classification)
    assert inside.objective.weights == {
        "hidden_mse_0_0": 1.0,
        "attention_mse_0_1": 2.0,
        "attention_mse_1_3": 2.0,
        "attention_mse_2_5": 2.0,
        "hidden_mse_1_2": 1.0,
        "hidden_mse_2_4": 1.0,
        "hidden_mse_3_6": 1.0,
    }
    assert outside.objective.weights == {"kd": 1.0}
    assert (inside.share, outside.share) == (0.5, 0.5)


def test_a_student_that_is_the_teacher_has_nothing_to_learn_inside(classification: Task) -> None:
    teacher = toy_teacher(classification)
    method = TinyBert(TinyBertConfig(layers=4))
    student = method.compress(teacher, [], classification).eval()
    terms = method.stages(teacher, student, classification)[0].objective(toy_batches(classification)[0])
    assert len(terms) == 9
    assert all(term < 1e-10 for term in terms.values())


@pytest.mark.parametrize("hidden_size", [16, 32])
def test_a_narrower_student_learns_through_projections(classification: Task, hidden_size: int) -> None:
    teacher, batch = toy_teacher(classification), toy_batches(classification)[0]
    method = TinyBert(TinyBertConfig(hidden_size=hidden_size))
    student = method.compress(teacher, [], classification).eval()
    assert student.config.hidden_size == hidden_size
    inside = method.stages(teacher, student, classification)[0].objective
    known = {id(p) for model in (teacher, student) for p in model.parameters()}
    projections = [tuple(p.shape) for p in inside.parameters() if id(p) not in known and p.dim() == 2]
    assert projections == ([] if hidden_size == 32 else [(32, 16)] * 3)
    trained = [p for p in inside.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    losses = []
    for _ in range(30):
        loss = torch.stack(list(inside(batch).values())).sum()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]


def test_first_stage_leaves_the_head_alone_and_the_second_trains_it(classification: Task) -> None:
    teacher, batch = toy_teacher(classification), toy_batches(classification)[0]
    method = TinyBert()
    student = method.compress(teacher, [], classification)
    stages = method.stages(teacher, student, classification)
    for stage, trained in zip(stages, (False, True), strict=True):
        student.zero_grad()
        torch.stack(list(stage.objective(batch).values())).sum().backward()
        assert (student.classifier.weight.grad is not None) == trained
