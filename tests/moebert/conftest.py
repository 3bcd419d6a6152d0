"""Tiny models with weights large enough to matter, and ragged batches for each head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
)

from moebert import MoEBertConfig, adapt

VOCAB, LENGTH, BATCH = 97, 13, 6
ROUTINGS = ("hash-random", "hash-balanced", "gate-token", "gate-sentence")
HEADS = ("classification", "regression", "span")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=ROUTINGS)
def routing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=("hash-random", "hash-balanced"))
def hash_routing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=("gate-token", "gate-sentence"))
def gate_routing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bert_config() -> Callable[..., BertConfig]:
    def make(head: str = "classification", **changes: Any) -> BertConfig:
        settings = {
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 32,
            "num_labels": {"classification": 3, "regression": 1, "span": 2}[head],
            "initializer_range": 0.3,  # at 0.02 a tiny model's logits hardly depend on its input
        }
        return BertConfig(**(settings | changes))

    return make


@pytest.fixture
def make_teacher(bert_config: Callable[..., BertConfig]) -> Callable[..., PreTrainedModel]:
    """Return a dense BERT with random biases and LayerNorms too, in eval mode."""

    def make(
        head: str = "classification", dtype: torch.dtype = torch.float64, **changes: Any
    ) -> PreTrainedModel:
        classes = {"span": BertForQuestionAnswering, "none": BertModel}
        config = bert_config("classification" if head == "none" else head, **changes)
        teacher = classes.get(head, BertForSequenceClassification)(config).to(dtype)
        with torch.no_grad():
            for name, parameter in teacher.named_parameters():
                if parameter.dim() == 1:
                    parameter.normal_(1.0 if name.endswith("LayerNorm.weight") else 0.0, 0.2)
        return teacher.eval()

    return make


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tensor]]:
    def make(head: str = "classification", *, batch: int = BATCH, length: int = LENGTH) -> dict[str, Tensor]:
        lengths = [length, *torch.randint(3, length + 1, (batch - 1,)).tolist()]
        mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
        inputs = {
            "input_ids": torch.randint(1, VOCAB, (batch, length)) * mask,
            "attention_mask": mask,
            "token_type_ids": (torch.arange(length) > 2).long().expand(batch, -1) * mask,
        }
        if head == "span":
            answers = torch.tensor([[int(torch.randint(n, ())) for _ in range(2)] for n in lengths])
            return inputs | {"start_positions": answers[:, 0], "end_positions": answers[:, 1]}
        labels = torch.randint(3, (batch,)) if head == "classification" else torch.randn(batch)
        return inputs | {"labels": labels}

    return make


@pytest.fixture
def make_student(make_teacher: Callable[..., PreTrainedModel]) -> Callable[..., Any]:
    """Return a MoEBERT whose experts are not the teacher's any more, in eval mode."""

    def make(
        routing: str, head: str = "classification", dtype: torch.dtype = torch.float64, **options: Any
    ) -> Any:
        teacher = make_teacher(head, dtype)
        config = MoEBertConfig.from_bert(teacher.config, routing=routing, **options)
        frequency = torch.arange(VOCAB, 0, -1)
        student = adapt(teacher, config, strategy="random", token_frequency=frequency)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        return student

    return make


@pytest.fixture
def logits_of() -> Callable[..., Tensor]:
    """Return a function from outputs to logits ``[batch, ...]``, whatever the head."""

    def logits(outputs: Any) -> Tensor:
        return (
            outputs.logits
            if "logits" in outputs
            else torch.stack([outputs.start_logits, outputs.end_logits], 1)
        )

    return logits


@pytest.fixture
def inputs_of() -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in batch.items() if value.dim() == 2}

    return inputs


@pytest.fixture
def restored_generator() -> Iterator[Tensor]:
    """Fail if the test's code moved the default generator."""
    before = torch.get_rng_state()
    yield before
    assert torch.equal(before, torch.get_rng_state())
