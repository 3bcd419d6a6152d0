"""First-order importance of attention heads and feed-forward neurons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.errors import UserError
from methods.inputs import model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Importance(NamedTuple):
    """Summed over samples, float64, on the CPU."""

    heads: Tensor  # [layers, heads]
    neurons: Tensor  # [layers, neurons]


def unit_importance(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]]) -> Importance:
    """Estimate how much each sample's loss changes if a head or a neuron is removed.

    Removing a unit switches off its output a; to first order that changes a sample's loss by |Σ_t a_t · ∂L/∂a_t|
    (Michel et al. 2019, equation 2; Molchanov et al. 2019). One backward pass serves a batch.

    Args:
        model: A BERT with a head, in eval mode; its parameters may be frozen and get no gradients.
        batches: Training batches with labels.

    Raises:
        UserError: Where there is no batch.
    """
    layers: Any = model.base_model.encoder.layer
    size = layers[0].attention.self.attention_head_size
    total = Importance(
        torch.zeros(len(layers), layers[0].attention.output.dense.in_features // size, dtype=torch.float64),
        torch.zeros(len(layers), layers[0].output.dense.in_features, dtype=torch.float64),
    )
    batch = None
    for batch in batches:
        heads, neurons = _changes(model, layers, batch)
        total.heads.add_(heads.view(*heads.shape[:2], -1, size).sum(dim=3).abs().sum(dim=1).double().cpu())
        total.neurons.add_(neurons.abs().sum(dim=1).double().cpu())
    if batch is None:
        raise UserError("importance needs at least one training batch")
    return total


def _changes(model: PreTrainedModel, layers: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return Σ_t a_t ∂L/∂a_t of attention channels and neurons, ``[layers, batch, channels]`` each."""
    mask = batch["attention_mask"].unsqueeze(-1)
    with _recorded(model, layers) as outputs, torch.enable_grad():
        loss = model(**model_inputs(model, batch, labels=True)).loss * len(mask)  # a sum over samples
        gradients = torch.autograd.grad(loss, outputs)
    changes = [
        # detached: sums over batches would keep what every batch was computed from
        (output.detach() * gradient * mask).sum(dim=1)
        for output, gradient in zip(outputs, gradients, strict=True)
    ]
    return torch.stack(changes[0::2]), torch.stack(changes[1::2])


@contextmanager
def _recorded(model: PreTrainedModel, layers: Any) -> Iterator[list[Tensor]]:
    """Collect, layer by layer, what goes into the attention's output projection and the second FFN matrix."""
    outputs: list[Tensor] = []

    def start(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
        return embedded.requires_grad_()  # frozen parameters alone would leave nothing to differentiate

    def record(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        outputs.append(inputs[0])

    handles = [model.base_model.embeddings.register_forward_hook(start)]
    for layer in layers:
        handles.append(layer.attention.output.dense.register_forward_pre_hook(record))
        handles.append(layer.output.dense.register_forward_pre_hook(record))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
