"""Run a model once, and again from a layer on with one expert's tokens sent to its siblings.

A layer's inputs are kept from the first run, so a replacement costs the layers from there on and no more.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moebert.experts import sort_by_expert
from moebert.routing import NOT_INPUTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedModel

Logits = tuple[Tensor, ...]  # [batch, labels], or starts and ends [batch, length]


@dataclass(frozen=True)
class Recording:
    """What one batch gave rise to.

    Attributes:
        logits: Of the model as it is.
        layer_inputs: The arguments of each layer.
        attended: ``[layers, tokens, hidden]``, what the experts were given, padding included.
        assignment: ``[layers, tokens]``, the expert of each token.
    """

    logits: Logits
    layer_inputs: list[tuple[Any, ...]]
    attended: Tensor
    assignment: Tensor


def record(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Recording:
    """Run a MoEBERT on a batch and keep what its layers and experts were given."""
    layer_inputs: list[tuple[Any, ...]] = []
    expert_inputs: list[tuple[Any, ...]] = []
    layers = model.base_model.encoder.layer
    hooks = [layer.register_forward_pre_hook(lambda _, given: layer_inputs.append(given)) for layer in layers]
    hooks += [
        layer.experts.register_forward_pre_hook(lambda _, given: expert_inputs.append(given))
        for layer in layers
    ]
    try:
        inputs = {name: value for name, value in batch.items() if name not in NOT_INPUTS}
        outputs = model(**inputs, return_dict=True)
    finally:
        for hook in hooks:
            hook.remove()
    return Recording(
        logits=(outputs.logits,) if "logits" in outputs else (outputs.start_logits, outputs.end_logits),
        layer_inputs=layer_inputs,
        attended=torch.stack([tokens for tokens, _ in expert_inputs]),
        assignment=torch.stack([dispatch.expert_ids for _, dispatch in expert_inputs]),
    )


def replay(model: PreTrainedModel, recording: Recording, first: int) -> Logits:
    """Run a recorded batch again from a layer on, and return the logits."""
    hidden_states = recording.layer_inputs[first][0]
    layers = model.base_model.encoder.layer[first:]
    for layer, (_, *rest) in zip(layers, recording.layer_inputs[first:], strict=True):
        hidden_states = layer(hidden_states, *rest).hidden_states
    if hasattr(model, "qa_outputs"):
        return tuple(model.qa_outputs(hidden_states).unbind(-1))
    return (model.classifier(model.base_model.pooler(hidden_states)),)


@contextmanager
def replaced(experts: Any, expert: int, siblings: Tensor) -> Iterator[None]:
    """Send one expert's tokens to siblings while the block lasts; a gate's probability stays the expert's.

    Args:
        experts: Of one layer.
        expert: The one that is left out.
        siblings: ``[tokens]``, who stands in for it at each token, should the token visit it.
    """

    def reroute(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens, dispatch = given
        ids = torch.where(dispatch.expert_ids == expert, siblings, dispatch.expert_ids)
        rerouted = sort_by_expert(ids, len(experts.up_weight))
        return tokens, dispatch._replace(expert_ids=ids, order=rerouted.order, ends=rerouted.ends)

    hook = experts.register_forward_pre_hook(reroute)
    try:
        yield
    finally:
        hook.remove()
