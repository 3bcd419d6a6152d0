"""A mixture of experts by hand: in its first layer one expert alone reads whether a word is good or bad.

Siblings turn the same words into something that the head does not look at, and the second layer's experts are equal. So
the words' expert is worth all of the score, and no other is worth any.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moebert import MoEBertConfig, MoEBertForSequenceClassification

LAYER, EXPERT, OTHER = 0, 1, 2  # where the good and the bad words go; where the bad ones go if they are split
HIDDEN, SIZE, EXPERTS = 16, 16, 4
READOUT, JUDGEMENT, AGAINST, REST = 0, 1, 2, 3  # dimensions; the rest is noise


@torch.no_grad()
def planted(
    vocab_size: int, good: Sequence[int], bad: Sequence[int], *, split: bool = False
) -> MoEBertForSequenceClassification:
    """Build the model; ``split`` gives bad words to an equal expert of their own."""
    config = MoEBertConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * SIZE,
        max_position_embeddings=32,
        num_experts=EXPERTS,
        num_labels=2,
    )
    model = MoEBertForSequenceClassification(config).eval()
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "LayerNorm.weight" in name or "layernorm_weight" in name else 0.0)
    generator = torch.Generator().manual_seed(0)
    words = model.bert.embeddings.word_embeddings.weight
    words[:, REST:] = centred(torch.randn(vocab_size, HIDDEN - REST, generator=generator))
    for ids, sign in ((good, 1.0), (bad, -1.0)):
        words[list(ids), JUDGEMENT], words[list(ids), AGAINST] = 2 * sign, -2 * sign
    first, second = model.bert.encoder.layer
    experts = first.experts
    experts.up_weight.copy_(torch.randn(experts.up_weight.shape, generator=generator))
    noise = torch.randn(EXPERTS, SIZE, HIDDEN - REST, generator=generator)
    experts.down_weight[:, :, REST:] = centred(noise)
    for reader in (EXPERT, OTHER) if split else (EXPERT,):
        for neuron, sign in ((0, 1.0), (1, -1.0)):  # GELU(x) - GELU(-x) = x
            experts.up_weight[reader, :, neuron] = 0.0
            experts.down_weight[reader, neuron] = 0.0
            experts.up_weight[reader, JUDGEMENT, neuron] = sign
            experts.down_weight[reader, neuron, READOUT] = sign
            experts.down_weight[reader, neuron, REST] = -sign
    table = model.bert.router.table
    table[LAYER] = torch.tensor([0, 2, 3])[torch.arange(vocab_size) % 3]
    if split:
        table[LAYER] = torch.tensor([0, 3])[torch.arange(vocab_size) % 2]
    table[LAYER, list(good)] = EXPERT
    table[LAYER, list(bad)] = OTHER if split else EXPERT
    attention = second.attention  # without queries and keys it takes the mean
    attention.self.value.weight.copy_(torch.eye(HIDDEN))
    attention.output.dense.weight[READOUT, READOUT] = 5.0
    attention.output.dense.weight[REST, READOUT] = -5.0
    model.bert.pooler.dense.weight[READOUT, READOUT] = 2.0
    model.classifier.weight[:, READOUT] = torch.tensor([-3.0, 3.0])
    model.classifier.bias[0] = 0.1  # who reads nothing says 0
    return model


@torch.no_grad()
def with_equal_experts(model: MoEBertForSequenceClassification) -> MoEBertForSequenceClassification:
    """Make every expert of a layer a copy of the one that reads."""
    for layer in model.bert.encoder.layer:
        for parameter in layer.experts.parameters():
            parameter.copy_(parameter[EXPERT].expand_as(parameter))
    return model


def centred(values: Tensor) -> Tensor:
    """Subtract each row's mean, so that LayerNorm moves no dimension that is 0."""
    return values - values.mean(-1, keepdim=True)
