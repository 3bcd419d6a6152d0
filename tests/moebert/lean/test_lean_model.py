"""The lean encoder against transformers' own forward, in double precision and on a GPU in half."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertModel

from methods.pruned_bert import prune
from moebert import MoEBertModel
from moebert.lean import LeanModel, pack

MODELS = ("dense", "narrowed", "hash-random", "hash-balanced", "gate-token", "gate-sentence")


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["ragged", "equal"])
def ragged(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def make_model(
    make_teacher: Callable[..., Any], make_student: Callable[..., Any]
) -> Callable[..., torch.nn.Module]:
    def make(kind: str, head: str, dtype: torch.dtype = torch.float64) -> Any:
        if kind == "dense":
            return make_teacher(head, dtype)
        if kind == "narrowed":
            heads = [torch.tensor([0, 2]), torch.tensor([1]), torch.tensor([0, 1, 3])]
            neurons = [torch.arange(5), torch.arange(48), torch.arange(7, 20)]
            return prune(make_teacher(head, dtype), heads, neurons).to(dtype).eval()
        return make_student(kind, head, dtype)

    return make


def without_padding(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7)
    return batch | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def compare(found: Tensor, expected: Tensor, mask: Tensor, tolerance: float) -> None:
    """Compare logits of rows, or ``[batch, 2, length]`` where there is a token."""
    if expected.dim() == 3:
        real = mask[:, None].expand_as(expected) != 0
        assert (found[~real] == torch.finfo(found.dtype).min).all()
        found, expected = found[real], expected[real]
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * expected.norm()


def test_answers_are_those_of_transformers(
    make_model: Any, make_batch: Any, inputs_of: Any, logits_of: Any, kind: str, head: str, ragged: bool
) -> None:
    model, batch = make_model(kind, head), inputs_of(make_batch(head))
    batch = batch if ragged else without_padding(batch)
    stream = pack(batch)
    assert stream.layout.ragged is ragged
    with torch.no_grad():
        found, expected = logits_of(LeanModel(model)(stream)), logits_of(model(**batch))
    compare(found, expected, batch["attention_mask"], 1e-10)
    other = logits_of(LeanModel(make_model(kind, head))(stream))
    assert (found - other).norm() > 1e-3 * expected.norm()  # the weights do matter


@pytest.mark.parametrize("dtype", [torch.float32])
def test_single_precision(
    make_model: Any, make_batch: Any, inputs_of: Any, kind: str, dtype: torch.dtype
) -> None:
    model, batch = make_model(kind, "classification", dtype), inputs_of(make_batch())
    with torch.no_grad():
        compare(LeanModel(model)(pack(batch)).logits, model(**batch).logits, batch["attention_mask"], 1e-5)


def test_gradients_are_those_of_transformers(
    make_model: Any, make_batch: Any, inputs_of: Any, logits_of: Any, kind: str, head: str, ragged: bool
) -> None:
    model, batch = make_model(kind, head), inputs_of(make_batch(head))
    batch = batch if ragged else without_padding(batch)
    expected = logits_of(model(**batch))
    real = torch.ones_like(expected)
    if head == "span":
        real = batch["attention_mask"][:, None].expand_as(expected).to(expected)
    upstream = torch.randn_like(expected) * real
    parameters = dict(model.named_parameters())
    wanted = torch.autograd.grad(expected, list(parameters.values()), upstream, allow_unused=True)
    found = torch.autograd.grad(
        logits_of(LeanModel(model)(pack(batch))), list(parameters.values()), upstream, allow_unused=True
    )
    for name, ours, theirs in zip(parameters, found, wanted, strict=True):
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            assert (ours - theirs).norm() <= 1e-10 * (theirs.norm() + 1e-2), (
                name
            )  # a key's bias changes nothing
    assert sum(gradient is not None and bool(gradient.any()) for gradient in found) > 40


@pytest.mark.parametrize("pooler", [True, False])
def test_a_model_without_a_head_returns_hidden_states(
    make_teacher: Any, make_student: Any, make_batch: Any, inputs_of: Any, pooler: bool
) -> None:
    batch = inputs_of(make_batch())
    dense, student = make_teacher("none"), make_student("hash-random", "none")
    assert isinstance(student, MoEBertModel)
    if not pooler:
        dense.pooler = student.pooler = None
    for model in (dense, student):
        with torch.no_grad():
            found, expected = LeanModel(model)(pack(batch)), model(**batch)
        real = batch["attention_mask"] != 0
        torch.testing.assert_close(
            found.last_hidden_state[real], expected.last_hidden_state[real], rtol=1e-10, atol=1e-10
        )
        assert not found.last_hidden_state[~real].any()
        if pooler:
            torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-10, atol=1e-10)
        else:
            assert found.pooler_output is None


def test_a_model_may_have_no_layers(bert_config: Any, make_batch: Any, inputs_of: Any) -> None:
    batch = inputs_of(make_batch())
    model = BertModel(bert_config(num_hidden_layers=0)).double().eval()
    with torch.no_grad():
        found, expected = LeanModel(model)(pack(batch)), model(**batch)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-10, atol=1e-10)


def test_a_model_that_it_does_not_know_is_refused(make_teacher: Any) -> None:
    class Shorter(BertModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    with pytest.raises(ValueError, match="cannot run this model: Shorter has a forward of its own"):
        LeanModel(Shorter(make_teacher("none").config))
