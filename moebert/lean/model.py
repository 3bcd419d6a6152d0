"""The lean encoder: a BERT's or MoEBERT's own weights, run on the tokens of a batch without its padding.

Dense and MoEBERT share everything but the feed-forward network. Fewer kernels do the work of transformers' modules:
queries, keys and values are one product; bias and GELU, and bias, residual and LayerNorm, are one kernel each; for many
tokens on Hopper, bias and GELU belong to the product before them, by the same kernel in dense models and in those that
a hash routes. There is no dropout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
)

from moebert.lean.compatibility import why_not_lean
from moebert.lean.experts import Experts
from moebert.lean.fused import embed
from moebert.lean.layers import Attention, FeedForward
from moebert.lean.parameters import Embeddings, Norm

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.generic import ModelOutput

    from moebert.lean.stream import Stream


class LeanModel:
    """Run a model on streams.

    The weights are the model's own, but for queries, keys and values, which are copied side by side: make another one
    when they have changed. Gradients reach the model's parameters where it was made and run with autograd on.

    Args:
        model: In eval mode; a BertModel, a MoEBertModel, or one with a head for sequences or spans.

    Raises:
        ValueError: If the model holds anything that it does not know; see ``why_not_lean``.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        reason = why_not_lean(model)
        if reason is not None:
            raise ValueError(f"the lean encoder cannot run this model: {reason}")
        base: Any = model.base_model
        tables = base.embeddings
        self.model: Any = model
        self.base = base
        self.embeddings = Embeddings(
            tables.word_embeddings.weight,
            tables.token_type_embeddings.weight,
            tables.position_embeddings.weight,
            Norm.of(tables.LayerNorm),
        )
        self.router: Any = getattr(base, "router", None)
        self.layers = [(Attention.of(layer.attention), _feed_forward(layer)) for layer in base.encoder.layer]

    def __call__(self, stream: Stream) -> ModelOutput:
        """Return what the model would: logits of each row, or of each place of the padded batch.

        Padding has the lowest logits that there are, and hidden states of 0.
        """
        model = self.model
        hidden = self.encode(stream)
        if hasattr(model, "qa_outputs"):
            logits = model.qa_outputs(hidden)
            logits = stream.padded(logits, fill=torch.finfo(logits.dtype).min)
            start, end = logits.unbind(-1)
            return QuestionAnsweringModelOutput(start_logits=start.contiguous(), end_logits=end.contiguous())
        pooled = None
        if self.base.pooler is not None:
            pooled = self.base.pooler(hidden.index_select(0, stream.starts[:-1]).unsqueeze(1))
        if hasattr(model, "classifier"):
            return SequenceClassifierOutput(logits=model.classifier(pooled))
        return BaseModelOutputWithPooling(last_hidden_state=stream.padded(hidden), pooler_output=pooled)

    def encode(self, stream: Stream) -> Tensor:
        """Return the last hidden states, ``[tokens, hidden]``."""
        hidden = embed(stream.input_ids, stream.token_type_ids, stream.position_ids, self.embeddings)
        routed = None
        if self.router is not None and isinstance(first := self.layers[0][1], Experts):
            routed = first.route(self.router(stream.input_ids), hidden)
        for index, (attention, feed_forward) in enumerate(self.layers):
            if isinstance(feed_forward, FeedForward):
                hidden = feed_forward(attention(hidden, stream))
            elif routed is None:
                hidden = feed_forward.by_gate(attention(hidden, stream), stream)
            else:
                hidden = feed_forward.by_hash(attention, hidden, stream, routed.layer(index))
        return hidden


def _feed_forward(layer: Any) -> FeedForward | Experts:
    return Experts(layer.experts, layer.gate) if hasattr(layer, "experts") else FeedForward.of(layer)
