from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bench.errors import UserError
from bench.tasks.task import Task
from bench.toys import HEADS, toy_batches, toy_task, toy_teacher
from methods.layers import take_layers
from methods.prune_structured import PruneStructured, PruneStructuredConfig, choose_units
from methods.pruned_bert import PrunedBertConfig, PrunedBertForSequenceClassification, prune
from methods.unit_importance import Importance


@pytest.mark.parametrize("head", HEADS)
def test_removing_equals_zeroing(head: Any) -> None:
    """The physically smaller model computes what the whole one does with the removed units' outputs unused."""
    task = toy_task(head)
    teacher, batch = toy_teacher(task), toy_batches(task)[0]
    heads = [torch.tensor(kept) for kept in ([0, 2], [3], [0, 1, 2, 3], [1, 2, 3])]
    neurons = [torch.randperm(128)[:count].sort().values for count in (8, 128, 40, 1)]
    zeroed = take_layers(teacher, range(4)).eval()
    with torch.no_grad():
        for layer, kept_heads, kept_neurons in zip(zeroed.bert.encoder.layer, heads, neurons, strict=True):
            gone = [c for c in range(32) if c // 8 not in kept_heads.tolist()]
            layer.attention.output.dense.weight[:, gone] = 0
            layer.output.dense.weight[:, [n for n in range(128) if n not in kept_neurons.tolist()]] = 0
    student = prune(teacher, heads, neurons).eval()
    torch.testing.assert_close(student(**batch).to_tuple(), zeroed(**batch).to_tuple())
    assert [layer.attention.self.query.out_features for layer in student.bert.encoder.layer] == [
        16,
        8,
        32,
        24,
    ]
    assert [layer.intermediate.dense.out_features for layer in student.bert.encoder.layer] == [8, 128, 40, 1]


def test_keeping_everything_is_the_teacher(classification: Task) -> None:
    teacher, batch = toy_teacher(classification), toy_batches(classification)[0]
    student = PruneStructured(PruneStructuredConfig(keep=1.0)).compress(
        teacher, toy_batches(classification), classification
    )
    torch.testing.assert_close(student.eval()(**batch).logits, teacher(**batch).logits, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("price", ["parameters", "multiply-adds"])
def test_what_stays_fills_the_budget(classification: Task, keep: float, price: Any) -> None:
    teacher = toy_teacher(classification)
    config = PruneStructuredConfig(keep=keep, price=price)
    student = PruneStructured(config).compress(teacher, toy_batches(classification), classification)

    def prunable(model: Any) -> int:
        linears = (m for m in model.bert.encoder.modules() if isinstance(m, torch.nn.Linear))
        return sum(m.weight.numel() for m in linears)

    assert keep - 0.05 < prunable(student) / prunable(teacher) <= keep + 0.005


def test_units_are_chosen_by_importance_for_the_price() -> None:
    hidden, heads, neurons = (
        16,
        2,
        8,
    )  # a head has 536 parameters, a neuron 33; 640 and 32 multiply-adds at length 8
    importance = Importance(torch.tensor([[536.0, 1.0], [2.0, 900.0]]), torch.ones(2, neurons) * 33)
    importance.neurons[1] *= torch.tensor([3.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 3.0])
    total = 2 * (heads * 536 + neurons * 33)

    def chosen(**knobs: Any) -> tuple[list[list[int]], list[list[int]]]:
        config = PruneStructuredConfig(multiple=1, length=8, **knobs)
        return tuple([layer.tolist() for layer in side] for side in choose_units(importance, hidden, config))  # type: ignore[return-value]

    assert chosen(keep=(2 * 536 + 10 * 33) / total) == ([[0], [1]], [list(range(8)), [0, 7]])
    assert chosen(keep=(2 * 536 + 9 * 33) / total)[1][1] == [0, 7]
    assert [len(layer) for layer in chosen(keep=(2 * 536 + 9 * 33) / total)[1]] == [7, 2]
    assert chosen(keep=0.01) == ([[0], [1]], [[0], [0]])  # every layer keeps its best


def test_the_price_decides_between_heads_and_neurons() -> None:
    """A head costs more multiply-adds than its parameters say, the more the longer the sequence."""
    importance = Importance(torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.full((1, 64), 0.06))
    sizes = {}
    for price in ("parameters", "multiply-adds"):
        config = PruneStructuredConfig(keep=0.5, price=price, length=512, multiple=1)  # type: ignore[arg-type]
        heads, neurons = choose_units(importance, 16, config)
        sizes[price] = len(heads[0]), len(neurons[0])
    assert sizes["parameters"][0] == 2
    assert sizes["multiply-adds"][0] == 1
    assert sizes["multiply-adds"][1] > sizes["parameters"][1]


def test_neurons_leave_in_whole_groups(classification: Task) -> None:
    student = PruneStructured(PruneStructuredConfig(multiple=8)).compress(
        toy_teacher(classification), toy_batches(classification), classification
    )
    assert all(size % 8 == 0 for size in student.config.layer_intermediate_sizes)


def test_a_model_made_from_its_configuration_is_initialised(classification: Task) -> None:
    config = PrunedBertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=100,
        initializer_range=0.3,
        layer_attention_heads=[1, 4],
        layer_intermediate_sizes=[64, 8],
    )
    model = PrunedBertForSequenceClassification(config)
    for linear in (
        model.bert.encoder.layer[0].intermediate.dense,
        model.bert.encoder.layer[1].attention.self.key,
    ):
        assert linear.weight.std().item() == pytest.approx(0.3, rel=0.1)
        assert (linear.bias == 0).all()


def test_another_class_of_model_is_refused(classification: Task) -> None:
    student = prune(toy_teacher(classification), [torch.arange(4)] * 4, [torch.arange(128)] * 4)
    with pytest.raises(
        UserError, match="cannot remove heads and neurons of a PrunedBertForSequenceClassification"
    ):
        prune(student, [], [])


def test_auto_class_gives_the_pruned_model(classification: Task, tmp_path: Path) -> None:
    student = prune(toy_teacher(classification), [torch.arange(2)] * 4, [torch.arange(16)] * 4)
    student.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is PrunedBertForSequenceClassification
    assert again.config.layer_attention_heads == [2] * 4
