from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig

from moebert import MoEBertConfig
from moebert.cost import count_parameters, multiply_adds


def counted_multiply_adds(model: Any, length: int) -> int:
    """Count with torch, on an unpadded sequence; torch counts a multiply and an add."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(input_ids=torch.randint(1, 97, (1, length)))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("head", ["classification", "regression", "span", "none"])
@pytest.mark.parametrize("implementation", ["reference", "grouped"])
@pytest.mark.parametrize("length", [1, 11, 32])
def test_multiply_adds_are_those_torch_counts(
    make_student: Any, routing: str, head: str, implementation: str, length: int
) -> None:
    student = make_student(routing, head, dtype=torch.float32)
    student.set_experts_implementation(implementation)
    student.set_attn_implementation("eager")
    kind = {"classification": "sequence", "regression": "sequence"}.get(head, head)
    assert multiply_adds(student.config, length, head=kind) == counted_multiply_adds(student, length)


@pytest.mark.parametrize("head", ["classification", "span", "none"])
def test_a_dense_bert_is_counted_by_the_same_formula(make_teacher: Any, head: str) -> None:
    teacher = make_teacher(head, torch.float32)
    teacher.set_attn_implementation("eager")
    kind = "sequence" if head == "classification" else head
    assert multiply_adds(teacher.config, 11, head=kind) == counted_multiply_adds(teacher, 11)
    assert count_parameters(teacher.config, head=kind).stored == teacher.num_parameters()


@pytest.mark.parametrize("head", ["classification", "regression", "span", "none"])
def test_parameters_are_those_of_the_modules(make_student: Any, routing: str, head: str) -> None:
    student = make_student(routing, head, num_experts=5, shared_neurons=7)
    kind = {"classification": "sequence", "regression": "sequence"}.get(head, head)
    found = count_parameters(student.config, head=kind)
    assert found.stored == student.num_parameters()
    unvisited = sum(p.numel() * 4 // 5 for name, p in student.named_parameters() if ".experts." in name)
    assert found.effective == student.num_parameters() - unvisited
    assert found.embeddings == sum(p.numel() for p in student.base_model.embeddings.parameters())


def test_bert_base_has_the_published_sizes() -> None:
    """66M effective parameters in the paper; stored ones do not shrink."""
    bert = BertConfig()
    found = count_parameters(MoEBertConfig.from_bert(bert), head="none")
    assert round(found.effective / 1e6) == 67
    assert abs(found.stored / count_parameters(bert, head="none").stored - 1) < 0.001


@pytest.mark.parametrize(("length", "expected"), [(64, 1.97), (128, 1.95), (384, 1.86), (512, 1.82)])
def test_the_bound_on_the_speedup_at_bert_base(length: int, expected: float) -> None:
    bert = BertConfig()
    bound = multiply_adds(bert, length) / multiply_adds(MoEBertConfig.from_bert(bert), length)
    assert round(bound, 2) == expected
