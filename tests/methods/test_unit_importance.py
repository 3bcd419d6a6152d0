from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.tasks.task import Task
from bench.toys import HEADS, toy_batches, toy_task, toy_teacher
from methods.unit_importance import Importance, unit_importance


def dumb_importance(model: Any, batches: list[dict[str, torch.Tensor]]) -> Importance:
    """Multiply a gate into every head and neuron, sample by sample, and let autograd find its derivative at 1."""
    layers = model.bert.encoder.layer
    heads, neurons = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 128, dtype=torch.float64)
    for batch in batches:
        for row in range(len(batch["input_ids"])):
            length = int(batch["attention_mask"][row].sum())
            sample = {name: value[row : row + 1] for name, value in batch.items()}
            sample = {
                name: value[:, :length] if value.dim() == 2 else value for name, value in sample.items()
            }
            gates: list[torch.Tensor] = []
            handles = []
            for layer in layers:
                for linear, count in ((layer.attention.output.dense, 4), (layer.output.dense, 128)):
                    gate = torch.ones(count, dtype=torch.float64, requires_grad=True)
                    gates.append(gate)
                    handles.append(
                        linear.register_forward_pre_hook(
                            lambda _module, inputs, gate=gate: (
                                inputs[0] * gate.repeat_interleave(inputs[0].size(-1) // len(gate)),
                            )
                        )
                    )
            model(**sample).loss.backward()
            for handle in handles:
                handle.remove()
            for index in range(4):
                heads[index] += gates[2 * index].grad.abs()
                neurons[index] += gates[2 * index + 1].grad.abs()
    return Importance(heads, neurons)


@pytest.mark.parametrize("head", HEADS)
def test_equals_a_gate_on_every_unit_and_sample(head: Any) -> None:
    task = toy_task(head)
    teacher = toy_teacher(task).double()
    batches = toy_batches(task, batches=2, rows=3)
    if head == "regression":
        batches = [{**batch, "labels": batch["labels"].double()} for batch in batches]
    if head == "extractive-qa":  # the model's own span loss normalises over the padding: leave none
        batches = [{name: value[:1] for name, value in batch.items()} for batch in batches]
    found, expected = unit_importance(teacher, batches), dumb_importance(teacher, batches)
    torch.testing.assert_close(found.heads, expected.heads, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.neurons, expected.neurons, rtol=1e-10, atol=1e-12)


def test_a_unit_whose_output_is_unused_has_no_importance(classification: Task) -> None:
    teacher = toy_teacher(classification)
    with torch.no_grad():
        teacher.bert.encoder.layer[1].attention.output.dense.weight[:, 8:16] = 0
        teacher.bert.encoder.layer[2].output.dense.weight[:, 5] = 0
    heads, neurons = unit_importance(teacher, toy_batches(classification))
    assert (heads == 0).nonzero().tolist() == [[1, 1]]
    assert (neurons == 0).nonzero().tolist() == [[2, 5]]


def test_the_model_is_left_as_it_was(classification: Task) -> None:
    teacher = toy_teacher(classification)
    unit_importance(teacher, toy_batches(classification))
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.modules())


def test_no_batch_is_an_error(classification: Task) -> None:
    with pytest.raises(UserError, match="at least one training batch"):
        unit_importance(toy_teacher(classification), [])


def test_the_sums_keep_nothing_of_what_the_batches_were_computed_from(classification: Task) -> None:
    found = unit_importance(toy_teacher(classification), toy_batches(classification))
    assert not found.heads.requires_grad
    assert not found.neurons.requires_grad
