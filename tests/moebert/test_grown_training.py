"""A grown model trains to no worse than its parent, trained as long."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor

from moebert import MoEBertConfig, adapt, ffn_importance, grow
from moebert.adaptation import expert_layers
from moebert.distillation import distillation_losses

Rows = list[dict[str, Tensor]]
STEPS = 40
ORDERS = 3  # of the batches: how far apart they end says what is noise


def objective(student: Any, teacher: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return CE + L_trm + L_pred, the paper's loss with λ = 1."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    outputs = student(**batch, output_hidden_states=True)
    with torch.no_grad():
        targets = teacher(**inputs, output_hidden_states=True)
    terms = distillation_losses(outputs, targets, batch["attention_mask"])
    loss: Tensor = outputs.loss + terms["layers"] + terms["prediction"]
    return loss


def trained(student: Any, teacher: Any, batches: Rows, *, steps: int, order: int) -> Any:
    """Return a copy that was trained for some steps without dropout, on batches in one of several orders."""
    student, generator = deepcopy(student).eval(), torch.Generator().manual_seed(order)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    for _ in range(steps):
        batch = batches[int(torch.randint(len(batches), (), generator=generator))]
        optimizer.zero_grad()
        objective(student, teacher, batch).backward()
        optimizer.step()
    return student


@torch.no_grad()
def loss_of(student: Any, teacher: Any, batches: Rows) -> float:
    return fmean(float(objective(student, teacher, batch)) for batch in batches)


@dataclass
class Trained:
    """A student that was cut and trained, what it was grown from, and how either goes on from there."""

    teacher: Any
    batches: Rows
    importance: Tensor
    frequency: Tensor
    parent: Any

    def grow(self, *, from_teacher: bool) -> Any:
        source = {"teacher": self.teacher, "importance": self.importance} if from_teacher else {}
        hashed = self.parent.config.routing.startswith("hash")
        seen: Any = {"token_frequency": self.frequency} if hashed else {"batches": self.batches}
        return grow(self.parent, num_experts=6, **source, **seen)

    def loss(self, student: Any) -> float:
        return loss_of(student, self.teacher, self.batches)

    def further(self, student: Any, *, orders: int = ORDERS) -> list[float]:
        """Return the objective after as many steps again, one value an order of the batches."""
        return [
            self.loss(trained(student, self.teacher, self.batches, steps=STEPS, order=order))
            for order in range(orders)
        ]


@pytest.fixture
def make_trained(make_teacher: Any, make_batch: Any) -> Any:
    def make(routing: str) -> Trained:
        teacher, batches = (
            make_teacher(dtype=torch.float32),
            [make_batch(batch=16, length=8) for _ in range(4)],
        )
        with torch.no_grad():
            batches = [batch | {"labels": teacher(**batch).logits.argmax(-1)} for batch in batches]
        importance = ffn_importance(teacher, batches)
        tokens = torch.cat([batch["input_ids"][batch["attention_mask"].bool()] for batch in batches])
        frequency = torch.bincount(tokens, minlength=97)
        config: Any = MoEBertConfig.from_bert(teacher.config, routing=routing, shared_neurons=8)  # type: ignore[arg-type]
        cut = adapt(teacher, config, importance=importance, token_frequency=frequency)
        parent = trained(cut, teacher, batches, steps=STEPS, order=9)
        return Trained(teacher, batches, importance, frequency, parent)

    return make


def spoil(grown: Any) -> None:
    """Put what training starts from without growth into the new experts: small noise."""
    for experts in expert_layers(grown):
        with torch.no_grad():
            experts.up_weight[4:].normal_(std=0.02)
            experts.down_weight[4:].normal_(std=0.02)


def no_worse(grown: list[float], parent: list[float], slack: float) -> bool:
    """Say whether the mean exceeds the parent's by no more than two standard deviations over the orders, and slack."""
    return fmean(grown) <= fmean(parent) * (1 + slack) + 2 * stdev(parent)


@pytest.mark.parametrize(
    ("routing_name", "slack"),
    [
        ("hash-random", 0.0),
        pytest.param("hash-balanced", 0.0, marks=pytest.mark.slow),
        pytest.param(
            "gate-token", 0.1, marks=pytest.mark.slow
        ),  # one more expert takes probability for a while
        pytest.param("gate-sentence", 0.1, marks=pytest.mark.slow),
    ],
)
def test_a_grown_model_trains_to_no_worse_than_its_parent_trained_as_long(
    make_trained: Any, routing_name: str, slack: float
) -> None:
    made = make_trained(routing_name)
    parent, grown = made.further(made.parent), made.grow(from_teacher=False)
    assert made.loss(grown) < 1.2 * made.loss(made.parent)
    further = made.further(grown)
    assert no_worse(further, parent, slack)
    assert max(further) < made.loss(made.parent)
    spoil(grown)
    assert not no_worse(made.further(grown, orders=1), parent, slack), "the test does not see broken growth"


@pytest.mark.slow
def test_new_experts_from_the_teacher_catch_up_from_where_the_parent_was_at_first(
    make_trained: Any, routing: str
) -> None:
    made = make_trained(routing)
    grown = made.grow(from_teacher=True)
    assert fmean(made.further(grown)) < made.loss(made.parent) < made.loss(grown)
