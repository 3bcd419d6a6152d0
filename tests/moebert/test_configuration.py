from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, BertConfig

from moebert import MoEBertConfig


def test_the_defaults_at_bert_base_are_the_papers() -> None:
    config = MoEBertConfig.from_bert(BertConfig())
    assert (config.num_experts, config.expert_size, config.shared_size) == (4, 768, 512)
    assert config.routing == "hash-random"
    assert config.expert_dropout == 0.1


def test_default_sizes_follow_the_dense_size_not_the_number_of_experts() -> None:
    config = MoEBertConfig.from_bert(BertConfig(intermediate_size=1536), num_experts=8)
    assert (config.expert_size, config.shared_size) == (384, 256)


def test_default_shared_neurons_never_exceed_a_small_expert() -> None:
    config = MoEBertConfig.from_bert(BertConfig(), expert_intermediate_size=100)
    assert config.shared_size == 100


def test_what_bert_says_is_inherited() -> None:
    bert = BertConfig(
        hidden_size=48,
        num_attention_heads=6,
        id2label={0: "no", 1: "yes"},
        hidden_dropout_prob=0.3,
        problem_type="regression",
    )
    config = MoEBertConfig.from_bert(bert)
    for name in (
        "hidden_size",
        "num_attention_heads",
        "id2label",
        "label2id",
        "hidden_dropout_prob",
        "problem_type",
    ):
        assert getattr(config, name) == getattr(bert, name)
    assert config.model_type == "moebert"


def test_a_saved_configuration_comes_back_through_auto_config(tmp_path: Path) -> None:
    config = MoEBertConfig.from_bert(
        BertConfig(), num_experts=6, shared_neurons=7, routing="gate-token", routing_seed=3
    )
    config.save_pretrained(tmp_path)
    back = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(back, MoEBertConfig)
    assert back.to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            {"routing": "hash"},
            "unknown routing 'hash'; known: hash-random, hash-balanced, gate-token, gate-sentence",
        ),
        ({"num_experts": 0}, "between 1 and 64"),
        ({"num_experts": 65}, "between 1 and 64"),
        ({"expert_intermediate_size": 0}, "at least 1 neuron"),
        ({"expert_intermediate_size": 10, "shared_neurons": 11}, "can share 0 to 10"),
        ({"shared_neurons": -1}, "can share 0 to 768"),
        ({"num_experts": 4.0}, "num_experts is 4.0; it must be a whole number"),
        ({"num_experts": "4"}, "num_experts is '4'; it must be a whole number"),
        ({"num_experts": True}, "num_experts is True; it must be a whole number"),
        ({"shared_neurons": 0.5}, "shared_neurons is 0.5; it must be a whole number"),
        ({"routing_seed": None}, "routing_seed is None; it must be a whole number"),
        ({"routing_seed": "a"}, "routing_seed is 'a'; it must be a whole number"),
        ({"expert_dropout": None}, "expert_dropout is None; it must be a finite number"),
        ({"balance_loss_weight": float("nan")}, "balance_loss_weight is nan; it must be a finite number"),
        ({"balance_loss_weight": float("inf")}, "balance_loss_weight is inf; it must be a finite number"),
        ({"expert_dropout": 1.0}, "expert_dropout is 1.0"),
        ({"balance_loss_weight": -1.0}, "balance_loss_weight is -1.0"),
    ],
)
def test_an_option_that_does_not_fit_is_named_with_what_would(option: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MoEBertConfig.from_bert(BertConfig(), **option)


def test_a_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="encoder"):
        MoEBertConfig.from_bert(BertConfig(is_decoder=True))


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="num_expert"):
        MoEBertConfig.from_bert(BertConfig(), num_expert=4)


def test_of_a_moebert_configuration_what_it_says_of_the_dense_model_is_taken() -> None:
    first = MoEBertConfig.from_bert(BertConfig(), num_experts=6, shared_neurons=7, routing="gate-token")
    again = MoEBertConfig.from_bert(first, num_experts=2)
    assert again.to_diff_dict() == MoEBertConfig.from_bert(BertConfig(), num_experts=2).to_diff_dict()
