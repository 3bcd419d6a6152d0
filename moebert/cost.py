"""Parameters and multiply-adds of a BERT or MoEBERT, by formula from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from moebert.configuration import MoEBertConfig

if TYPE_CHECKING:
    from transformers import BertConfig

Head = Literal["none", "sequence", "span"]


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of trainable elements; hash tables and neuron indices are not among them.

    Attributes:
        stored: All of them.
        effective: Stored, minus those of the experts that a token does not visit.
        embeddings: Those of the embeddings, part of both.
    """

    stored: int
    effective: int
    embeddings: int


def multiply_adds(config: BertConfig, length: int, *, head: Head = "sequence") -> int:
    """Count the multiply-adds of one sequence without padding; a fused multiply-add counts as one.

    Products of matrices count, with the attention's two; biases, softmax, LayerNorm, activations and look-ups do not.

    Args:
        config: A MoEBertConfig, or the BertConfig of the dense model beside it.
        length: Tokens of the sequence.
        head: "none" for the bare encoder with its pooler, "sequence", or "span".
    """
    hidden: int = config.hidden_size
    attention = 4 * length * hidden**2 + 2 * length**2 * hidden
    feed_forward = 2 * length * hidden * _visited_neurons(config)
    layer = attention + feed_forward + _gate_size(config) * (1 if _gates_sentences(config) else length)
    return int(config.num_hidden_layers) * layer + _head_products(config, length, head)


def count_parameters(config: BertConfig, *, head: Head = "sequence") -> ParameterCount:
    """Count the parameters of a model with a head; see multiply_adds for the arguments."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    embeddings = rows * hidden + 2 * hidden
    attention = 4 * (hidden**2 + hidden) + 2 * hidden
    feed_forward = _feed_forward_size(hidden, _visited_neurons(config))
    experts = config.num_experts if isinstance(config, MoEBertConfig) else 1
    rest = embeddings + layers * (attention + _gate_size(config)) + _head_size(config, head)
    return ParameterCount(
        stored=rest + layers * experts * feed_forward,
        effective=rest + layers * feed_forward,
        embeddings=embeddings,
    )


def _visited_neurons(config: BertConfig) -> int:
    """Return how many neurons of a layer a token passes."""
    return config.expert_size if isinstance(config, MoEBertConfig) else int(config.intermediate_size)


def _gate_size(config: BertConfig) -> int:
    gated = isinstance(config, MoEBertConfig) and config.routing.startswith("gate")
    return int(config.num_experts * config.hidden_size) if gated else 0


def _gates_sentences(config: BertConfig) -> bool:
    return isinstance(config, MoEBertConfig) and config.routing == "gate-sentence"


def _feed_forward_size(hidden: int, neurons: int) -> int:
    """Count W1, b1, W2, b2 and the LayerNorm behind them."""
    return 2 * hidden * neurons + neurons + hidden + 2 * hidden


def _head_products(config: BertConfig, length: int, head: Head) -> int:
    pooler, per_label = int(config.hidden_size) ** 2, int(config.hidden_size * config.num_labels)
    return {"none": pooler, "sequence": pooler + per_label, "span": length * per_label}[head]


def _head_size(config: BertConfig, head: Head) -> int:
    pooler, classifier = (
        config.hidden_size**2 + config.hidden_size,
        (config.hidden_size + 1) * config.num_labels,
    )
    return int({"none": pooler, "sequence": pooler + classifier, "span": classifier}[head])
