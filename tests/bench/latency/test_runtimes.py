from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from bench.latency.runtimes import Eager, Runtime
from bench.registry import runtimes

SIZES: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 32}
BERT = BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32, **SIZES)
DISTILBERT = DistilBertConfig(dim=16, n_heads=2, n_layers=2, hidden_dim=32, **SIZES)


def batches() -> list[dict[str, torch.Tensor]]:
    ids = torch.arange(40).reshape(2, 4, 5)
    mask = torch.ones_like(ids)
    mask[:, 0, 3:] = 0
    types = (torch.arange(5) > 2).long().expand(4, 5)
    return [{"input_ids": ids[i], "attention_mask": mask[i], "token_type_ids": types} for i in range(2)]


def test_eager_is_registered_like_anybody_elses() -> None:
    assert runtimes.get("eager") is Eager
    assert issubclass(Eager, Runtime)
    assert Eager().supports(torch.device("cpu")) is None


def test_eager_runs_the_batch_it_is_told_to_without_autograd() -> None:
    model = BertForSequenceClassification(BERT).eval()
    run = Eager().prepare(model, batches())
    for index, batch in enumerate(batches()):
        logits = run(index).logits
        assert logits.is_inference()
        assert torch.equal(logits, model(**batch).logits)
    assert not torch.equal(run(0).logits, run(1).logits)


@pytest.mark.parametrize("left_out", ["attention_mask", "token_type_ids"])
def test_every_input_reaches_the_model(left_out: str) -> None:
    model = BertForSequenceClassification(BERT).eval()
    less = [{name: batch[name] for name in batch if name != left_out} for batch in batches()]
    assert not torch.equal(
        Eager().prepare(model, batches())(0).logits, Eager().prepare(model, less)(0).logits
    )


def test_a_model_without_token_types_is_not_given_any() -> None:
    model = DistilBertForSequenceClassification(DISTILBERT).eval()
    assert Eager().prepare(model, batches())(0).logits.shape == (4, 2)
