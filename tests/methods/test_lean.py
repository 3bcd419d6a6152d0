"""The lean runtime, as the clock uses it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

from bench.latency.runtimes import Eager
from bench.registry import runtimes
from methods.lean import Lean
from methods.pruned_bert import prune
from moebert import MoEBertConfig, adapt
from moebert.lean import LeanModel, experts, fused, pack

ROUTINGS = ("hash-random", "hash-balanced", "gate-token", "gate-sentence")
KINDS = ("dense", "narrowed", *ROUTINGS)


def model_of(kind: str, head: type = BertForSequenceClassification) -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        intermediate_size=128,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    dense = head(config)
    if kind == "dense":
        return dense.eval()
    if kind == "narrowed":
        return prune(dense, [torch.tensor([0, 2, 3])] * 2, [torch.arange(40), torch.arange(77)]).eval()
    shape = MoEBertConfig.from_bert(config, routing=kind)
    return adapt(dense, shape, strategy="random", token_frequency=torch.ones(50)).eval()


def batches(*shapes: tuple[int, int], padded: bool, device: str) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    made = []
    for rows, length in shapes:
        lengths = torch.randint(2, length + 1, (rows, 1)) if padded else torch.full((rows, 1), length)
        lengths[0] = length
        mask = (torch.arange(length) < lengths).long()
        batch = {
            "input_ids": torch.randint(1, 50, (rows, length)) * mask,
            "attention_mask": mask,
            "token_type_ids": (torch.arange(length) > 3).long() * mask,
        }
        made.append({name: tensor.to(device) for name, tensor in batch.items()})
    return made


@pytest.mark.parametrize("padded", [False, True])
def test_it_answers_as_the_eager_runtime_on_a_cpu(padded: bool) -> None:
    model, given = model_of("hash-random"), batches((4, 12), (2, 9), (4, 12), padded=padded, device="cpu")
    run, eager = Lean().prepare(model, given), Eager().prepare(model, given)
    for index in (0, 1, 2, 0):
        logits: torch.Tensor = run(index).logits  # type: ignore[attr-defined]
        assert logits.is_inference()
        torch.testing.assert_close(logits, eager(index).logits, rtol=1e-4, atol=1e-5)  # type: ignore[attr-defined]


def test_it_is_registered_and_says_what_it_cannot_run() -> None:
    assert runtimes.get("lean") is Lean
    assert Lean().runs(model_of("gate-token")) is None
    model = model_of("dense")
    model.classifier.register_forward_hook(lambda *_: None)
    skip = Lean().runs(model)
    assert skip is not None
    assert skip.reason == "the lean encoder cannot run this model: Linear 'classifier' has forward hooks"


AS_MANY = pytest.mark.parametrize("as_many", [False, True], ids=["few", "as many"])


def run_few_as_many(monkeypatch: pytest.MonkeyPatch, as_many: bool) -> None:
    """Run a few tokens by the kernels that are meant for thousands."""
    if as_many:
        monkeypatch.setattr(fused, "WORTH_FUSING", 1)
        monkeypatch.setattr(experts, "WORTH_SORTING", 1)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("head", [BertForSequenceClassification, BertForQuestionAnswering])
@AS_MANY
def test_captured_it_rounds_no_more_than_transformers_does(
    kind: str, dtype: torch.dtype, padded: bool, head: type, as_many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if as_many and dtype == torch.float32:
        pytest.skip("single precision is run alike for few and many tokens")
    run_few_as_many(monkeypatch, as_many)
    model = model_of(kind, head).cuda()
    given = batches((8, 16), (8, 24), (8, 16), (1, 64), (160, 7), padded=padded, device="cuda")
    model.to(dtype).float()  # only arithmetic is compared, so weights are those that the precision can hold
    exact = [logits_where_tokens_are(model(**batch), batch) for batch in given]
    model.to(dtype)
    theirs = [logits_where_tokens_are(model(**batch), batch) for batch in given]
    run = Lean().prepare(model, given)
    rubbish = [torch.full((3 * 64, 64), torch.nan, dtype=dtype, device="cuda") for _ in range(64)]
    for index in (0, 1, 2, 3, 4, 2, 0):
        ours = logits_where_tokens_are(run(index), given[index])
        allowed = max(2 * distance(theirs[index], exact[index]), tolerance(kind, dtype))
        assert distance(ours, exact[index]) <= allowed, (index, distance(ours, exact[index]), allowed)
    assert all(tensor.isnan().all() for tensor in rubbish)  # nothing of the graphs lay where others may write


def logits_where_tokens_are(outputs: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    if "logits" in outputs:
        return outputs.logits.detach().float().clone()
    logits = torch.stack([outputs.start_logits, outputs.end_logits]).detach().float()
    return logits[:, batch["attention_mask"] != 0]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def tolerance(kind: str, dtype: torch.dtype) -> float:
    if dtype == torch.float32:
        return 1e-5
    return 3e-1 if kind.startswith("gate") else 1e-2  # a token near a tie visits another expert


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
@AS_MANY
def test_gradients_in_half_precision_round_no_more_than_transformers_do(
    kind: str, padded: bool, as_many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_few_as_many(monkeypatch, as_many)
    model = model_of(kind).cuda()
    (batch,) = batches((8, 16), padded=padded, device="cuda")
    model.bfloat16().float()
    upstream = torch.randn(8, 2, device="cuda")
    exact = gradients(model, model(**batch).logits, upstream)
    model.bfloat16()
    theirs = gradients(model, model(**batch).logits, upstream)
    ours = gradients(model, LeanModel(model)(pack(batch)).logits, upstream)
    allowed = max(2 * distance(theirs, exact), 5e-1 if kind.startswith("gate") else 1e-2)
    assert distance(ours, exact) <= allowed, (distance(ours, exact), allowed)


def gradients(model: Any, logits: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    """Return the gradients of all parameters, one after another."""
    found = torch.autograd.grad(
        logits, list(model.parameters()), upstream.to(logits.dtype), materialize_grads=True, allow_unused=True
    )
    return torch.cat([gradient.float().flatten() for gradient in found])
