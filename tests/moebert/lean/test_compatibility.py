"""What the lean encoder knows it runs; whatever it does not know, it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from methods.pruned_bert import prune
from moebert.lean import why_not_lean


def test_it_knows_every_model_of_the_suite(
    make_teacher: Callable[..., Any], make_student: Callable[..., Any], routing: str, head: str
) -> None:
    assert why_not_lean(make_student(routing, head)) is None
    dense = make_teacher(head)
    assert why_not_lean(dense) is None
    assert why_not_lean(prune(dense, [torch.arange(2)] * 3, [torch.arange(8)] * 3)) is None


def test_transformers_own_observers_do_no_harm(make_teacher: Any, make_batch: Any, inputs_of: Any) -> None:
    model = make_teacher()
    assert model(**inputs_of(make_batch()), output_hidden_states=True).hidden_states is not None
    assert why_not_lean(model) is None


class EarlyExit(BertForSequenceClassification):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def replace_forward(model: Any) -> None:
    model.bert.encoder.layer[1].forward = lambda x, **_: x


def hook(model: Any) -> None:
    model.bert.encoder.layer[1].register_forward_hook(lambda _module, _inputs, outputs: outputs)


def hook_before(model: Any) -> None:
    model.bert.pooler.register_forward_pre_hook(lambda _module, inputs: inputs)


def parametrise(model: Any) -> None:
    nn.utils.parametrizations.weight_norm(model.classifier)


def exchange(model: Any) -> None:
    model.bert.encoder.layer[0].output.dense = Scaled(48, 16)


def drop_bias(model: Any) -> None:
    model.bert.encoder.layer[2].intermediate.dense = nn.Linear(16, 48, bias=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace_forward, "BertLayer 'bert.encoder.layer.1' has a forward of its own"),
        (hook, "BertLayer 'bert.encoder.layer.1' has forward hooks"),
        (hook_before, "BertPooler 'bert.pooler' has forward hooks"),
        (parametrise, "ParametrizedLinear 'classifier' is of a kind that it does not know"),
        (exchange, "Scaled 'bert.encoder.layer.0.output.dense' is of a kind that it does not know"),
        (drop_bias, "Linear 'bert.encoder.layer.2.intermediate.dense' has no bias"),
    ],
)
def test_a_changed_module_is_named(make_teacher: Any, change: Callable[[Any], None], reason: str) -> None:
    model = make_teacher()
    change(model)
    assert why_not_lean(model) == reason


def test_another_class_or_configuration_is_named(make_teacher: Any, bert_config: Any) -> None:
    sizes: dict[str, Any] = {"vocab_size": 9, "dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 8}
    other = DistilBertForSequenceClassification(DistilBertConfig(**sizes))
    assert why_not_lean(other) == "DistilBertForSequenceClassification is neither a BERT nor a MoEBERT"
    assert why_not_lean(BertForMaskedLM(bert_config())) == "BertForMaskedLM is neither a BERT nor a MoEBERT"
    assert why_not_lean(EarlyExit(bert_config())) == "EarlyExit has a forward of its own"
    assert "NewGELUActivation" in str(why_not_lean(make_teacher(hidden_act="gelu_new")))
    assert why_not_lean(BertModel(bert_config(is_decoder=True))) == "it is an encoder, this model a decoder"
    relative = make_teacher()
    relative.config.position_embedding_type = "relative_key"
    assert "'relative_key'" in str(why_not_lean(relative))
