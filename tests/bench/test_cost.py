from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from bench.cost import Cost, count
from bench.errors import UserError

SHAPES = [
    {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64},
    {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 100},
    {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 16},
]


def bert_config(**changes: Any) -> BertConfig:
    # eager: the counter sees no products inside the CPU's fused attention
    return BertConfig(
        vocab_size=50, max_position_embeddings=40, attn_implementation="eager", **(SHAPES[1] | changes)
    )


def flops(model: PreTrainedModel, length: int) -> int:
    """Let torch count what it dispatches; it counts a multiply-add as two."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(input_ids=torch.zeros(1, length, dtype=torch.long))
    return counter.get_total_flops()


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("head", [BertForSequenceClassification, BertForQuestionAnswering])
def test_multiply_adds_are_half_of_what_torch_counts(head: Any, shape: dict[str, int], length: int) -> None:
    model = head(bert_config(**shape))
    assert 2 * count(model, length).multiply_adds == flops(model, length)


@pytest.mark.parametrize(
    "model",
    [
        AlbertForSequenceClassification(
            AlbertConfig(**SHAPES[1], embedding_size=8, vocab_size=50, attn_implementation="eager")
        ),
        DistilBertForSequenceClassification(
            DistilBertConfig(
                dim=48, n_heads=4, n_layers=2, hidden_dim=96, vocab_size=50, attn_implementation="eager"
            )
        ),
    ],
    ids=["layers shared", "other names"],
)
def test_relatives_of_bert_are_counted_too(model: PreTrainedModel) -> None:
    assert 2 * count(model, 9).multiply_adds == flops(model, 9)


def test_fused_attention_is_counted_like_the_plain_one() -> None:
    plain, fused = bert_config(), bert_config()
    fused._attn_implementation = "sdpa"
    models = [BertForSequenceClassification(config) for config in (plain, fused)]
    assert [model.config._attn_implementation for model in models] == ["eager", "sdpa"]
    assert count(models[0], 16) == count(models[1], 16)


def test_removed_heads_and_neurons_cost_nothing() -> None:
    model = BertForSequenceClassification(bert_config())
    whole = count(model, 16)
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        attention.query, attention.key, attention.value = (nn.Linear(48, 24) for _ in range(3))
        attention.num_attention_heads, attention.all_head_size = 2, 24
        layer.attention.output.dense = nn.Linear(24, 48)
        layer.intermediate.dense, layer.output.dense = nn.Linear(48, 30), nn.Linear(30, 48)
    cut = count(model, 16)
    assert 2 * cut.multiply_adds == flops(model, 16)
    assert cut.multiply_adds < whole.multiply_adds / 1.9
    assert cut.stored_encoder_parameters < whole.stored_encoder_parameters / 1.9


def test_bert_base_has_the_published_size_and_the_arithmetic_of_the_textbook() -> None:
    cost = count(BertForSequenceClassification(BertConfig()), 16)
    embeddings = (30522 + 512 + 2) * 768 + 2 * 768
    layer = 16 * (4 * 768 * 768 + 2 * 768 * 3072) + 2 * 16 * 16 * 768
    assert cost.stored_parameters == 109_483_778
    assert cost.stored_encoder_parameters == 109_483_778 - embeddings
    assert cost.multiply_adds == 12 * layer + 768 * 768 + 768 * 2


def test_tied_parameters_are_counted_once_and_as_embeddings() -> None:
    model = BertForMaskedLM(bert_config())
    tied = count(model, 4)
    model.cls.predictions.decoder.weight = nn.Parameter(model.cls.predictions.decoder.weight.detach().clone())
    untied = count(model, 4)
    assert untied.stored_parameters - tied.stored_parameters == 50 * 48
    assert untied.stored_encoder_parameters - tied.stored_encoder_parameters == 50 * 48


def test_exact_zeros_are_stored_but_not_effective() -> None:
    model = BertForSequenceClassification(bert_config())
    nn.init.normal_(model.classifier.bias)
    before = count(model, 4)
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.weight[:10] = 0
        model.bert.embeddings.word_embeddings.weight[3] = 0
    after = count(model, 4)
    assert after.stored_parameters == before.stored_parameters
    assert before.effective_encoder_parameters - after.effective_encoder_parameters == 10 * 48
    assert before.effective_parameters - after.effective_parameters == 10 * 48 + 48
    assert after.multiply_adds == before.multiply_adds


def test_counting_leaves_the_model_and_the_generator_alone() -> None:
    model = BertForSequenceClassification(bert_config()).train()
    state = torch.get_rng_state()
    cost = count(model, 8)
    assert isinstance(cost, Cost)
    assert cost == count(model, 8)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("length", [0, 41])
def test_a_length_without_positions_is_named(length: int) -> None:
    with pytest.raises(UserError, match=f"cannot count {length} tokens.*1 to 40"):
        count(BertForSequenceClassification(bert_config()), length)
