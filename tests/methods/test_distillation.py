"""Distillation adds up TextBrewer's own losses, can be captured, and names what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from distillation_cases import COSINE, HIDDEN, SCORES, make_student, total
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from bench.errors import UserError
from bench.tasks.task import Task
from bench.toys import HEADS, toy_batches, toy_task, toy_teacher
from methods.distillation import Distillation, Match

# --- the sum is TextBrewer's own -----------------------------------------------------------------------------------


def test_weighted_terms_sum_to_the_total_of_compute_loss(classification: Task) -> None:
    teacher, student = toy_teacher(classification), make_student(classification).eval()
    objective = Distillation(
        teacher,
        student,
        classification,
        temperature=3.0,
        kd_weight=0.7,
        label_weight=0.3,
        matches=[{**HIDDEN, "weight": 2.0}, {**COSINE, "weight": 0.5}, SCORES],
    )
    seen: dict[str, Tensor] = {}
    compute = objective._distiller.compute_loss

    def spy(*results: Any) -> Any:
        seen["total"], losses = compute(*results)
        return seen["total"], losses

    objective._distiller.compute_loss = spy
    value = total(objective, toy_batches(classification)[0])
    torch.testing.assert_close(value, seen["total"])
    assert list(objective.weights) == ["kd", "hidden_mse_2_4", "cos_2_4", "attention_mse_1_3", "labels"]


@pytest.mark.parametrize("head", HEADS)
def test_kd_term_is_the_textbook_one(head: Any) -> None:
    task = toy_task(head)
    teacher, student = toy_teacher(task), make_student(task).eval()
    batch = toy_batches(task)[0]
    objective = Distillation(teacher, student, task, temperature=2.0, kd_weight=1.0)
    value = total(objective, batch)
    taught, learned = teacher(**batch), student(**batch)
    if head == "regression":
        expected = functional.mse_loss(learned.logits, taught.logits)
    elif head == "classification":
        expected = soft_cross_entropy(learned.logits, taught.logits, 2.0)
    else:
        rows = [
            soft_cross_entropy(learned[side][row, None, :length], taught[side][row, None, :length], 2.0)
            for row, length in enumerate(batch["attention_mask"].sum(dim=1))
            for side in ("start_logits", "end_logits")
        ]
        expected = torch.stack(rows).mean()
    torch.testing.assert_close(value, expected)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    targets = (teacher / temperature).softmax(dim=-1)
    return -(targets * (student / temperature).log_softmax(dim=-1)).sum(dim=-1).mean() * temperature**2


# --- fit for capture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_the_whole_forward_asks_nothing_of_the_data(head: Any) -> None:
    task = toy_task(head)
    losses = ["hidden_mse", "cos", "pkd"]
    pairs = ["gram", "nst"]
    attentions = ["attention_mse", "attention_mse_sum", "attention_ce", "attention_ce_mean"]
    objective = Distillation(
        toy_teacher(task),
        make_student(task),
        task,
        label_weight=1.0,
        matches=[{**HIDDEN, "loss": loss} for loss in losses]
        + [{**HIDDEN, "loss": loss, "layer_T": [1, 2], "layer_S": [0, 1]} for loss in pairs]
        + [{**SCORES, "loss": loss} for loss in attentions],
    ).train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        terms = objective({name: mode.from_tensor(value) for name, value in toy_batches(task)[0].items()})
    assert terms.keys() == objective.weights.keys()
    assert all(term.shape == () for term in terms.values())


def test_padding_changes_no_term(classification: Task) -> None:
    task, batch = classification, toy_batches(classification)[0]
    padded = {
        name: nn.functional.pad(value, (0, 5)) if value.dim() == 2 else value for name, value in batch.items()
    }
    objective = Distillation(
        toy_teacher(task), make_student(task).eval(), task, label_weight=1.0, matches=[HIDDEN, COSINE, SCORES]
    )
    plain, wide = objective(batch), objective(padded)
    for name in plain:
        torch.testing.assert_close(plain[name], wide[name])


def test_half_precision_forward_keeps_the_losses_in_fp32(classification: Task) -> None:
    task, batch = classification, toy_batches(classification)[0]
    objective = Distillation(
        toy_teacher(task),
        make_student(task, 16).eval(),
        task,
        matches=[{**HIDDEN, "proj": ["linear", 16, 32]}],
    )
    exact = objective(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective(batch)
    for name, term in rounded.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, exact[name], rtol=0.05, atol=0.0)


def test_projections_are_trained_with_the_objective_and_start_from_the_default_generator(
    classification: Task,
) -> None:
    teacher, student = toy_teacher(classification), make_student(classification, 16)
    match: Match = {**HIDDEN, "proj": ["linear", 16, 32]}
    torch.manual_seed(3)
    objective = Distillation(teacher, student, classification, matches=[match])
    torch.manual_seed(3)
    again = Distillation(teacher, student, classification, matches=[match])
    known = {id(p) for model in (teacher, student) for p in model.parameters()}
    own = [p for p in objective.parameters() if id(p) not in known]
    assert [tuple(p.shape) for p in own] == [(32, 16), (32,)]
    torch.testing.assert_close(
        objective.projections.state_dict(), again.projections.state_dict(), rtol=0, atol=0
    )
    total(objective, toy_batches(classification)[0]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hiden_mse"}, "did you mean 'hidden_mse'"),
        ({"feature": "hiden"}, "did you mean 'hidden'"),
        ({"layer_T": 5}, "the teacher has hidden layers 0 to 4, not 5"),
        ({"feature": "attention", "loss": "attention_mse", "layer_T": 4}, "attention layers 0 to 3, not 4"),
        ({"layer_S": [0, 3]}, "the student has hidden layers 0 to 2, not 3"),
    ],
)
def test_a_wrong_match_is_named(classification: Task, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Distillation(
            toy_teacher(classification),
            make_student(classification),
            classification,
            matches=[{**HIDDEN, **change}],  # type: ignore[typeddict-item]
        )


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"kd_weight": 0.0}, "needs terms"),
        ({"temperature": 0.0}, "temperature=0.0 above 0"),
        ({"schedules": {"lables": torch.square}}, "unknown term 'lables'"),
    ],
)
def test_a_wrong_knob_is_named(classification: Task, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Distillation(toy_teacher(classification), make_student(classification), classification, **knobs)
