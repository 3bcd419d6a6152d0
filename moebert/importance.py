"""The importance of a dense BERT's feed-forward neurons (Eq. 4 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moebert.losses import sequence_losses, span_loss

LABELS = ("labels", "start_positions", "end_positions")


def ffn_importance(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """Sum over samples |w1_j · ∂L/∂w1_j + w2_j · ∂L/∂w2_j| of every feed-forward neuron j (Eq. 4).

    One backward pass serves a whole batch, because for one sample
    ``w1_j · ∂L/∂w1_j = Σ_t (z_tj - b1_j) ∂L/∂z_tj`` and ``w2_j · ∂L/∂w2_j = Σ_t h_tj ∂L/∂h_tj``,
    with z before and h after the activation: no gradient of a weight is ever formed.

    Args:
        model: A BERT with a head for sequences or spans, in any mode; parameters may be frozen.
        batches: Training batches, dicts of tensors with ``labels`` or start and end positions.

    Returns:
        ``[layers, intermediate_size]``, float64, on the CPU.

    Raises:
        ValueError: If the model is not a dense BERT, or there is no batch, or a batch has no labels.
    """
    layers = dense_layers(model)
    device = next(model.parameters()).device
    scores: Tensor | None = None
    with _recording(layers) as recorded, _evaluating(model), torch.enable_grad():
        for batch in batches:
            on_device = {name: value.to(device) for name, value in batch.items()}
            batch_scores = _batch_scores(model, layers, recorded, on_device)
            scores = batch_scores if scores is None else scores + batch_scores
    if scores is None:
        raise ValueError("importance needs at least one training batch")
    return scores.cpu()


def dense_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a dense BERT, from the first to the last.

    Raises:
        ValueError: If the model has none.
    """
    base = getattr(model, "base_model", model)
    layers = list(getattr(getattr(base, "encoder", None), "layer", []))
    if not layers or not all(hasattr(layer, "intermediate") and hasattr(layer, "output") for layer in layers):
        raise ValueError(f"{type(model).__name__} is not a dense BERT: its layers have no feed-forward to split")
    return layers


def _batch_scores(
    model: nn.Module, layers: list[nn.Module], recorded: dict[str, list[Tensor]], batch: dict[str, Tensor]
) -> Tensor:
    """Return the scores ``[layers, intermediate_size]`` of one batch."""
    for tensors in recorded.values():
        tensors.clear()
    outputs = model(**{name: value for name, value in batch.items() if name not in LABELS})
    loss = _sample_losses(outputs, batch, model.config).sum()
    before, after = recorded["before"], recorded["after"]
    gradients = torch.autograd.grad(loss, [*before, *after])
    grad_before, grad_after = gradients[: len(layers)], gradients[len(layers) :]
    mask = batch.get("attention_mask")
    rows = []
    for layer, z, h, grad_z, grad_h in zip(layers, before, after, grad_before, grad_after, strict=True):
        bias = layer.intermediate.dense.bias
        rows.append(_layer_scores(z.detach(), h.detach(), grad_z, grad_h, bias.detach(), mask))
    return torch.stack(rows)


def _layer_scores(z: Tensor, h: Tensor, grad_z: Tensor, grad_h: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``[intermediate_size]`` from ``[batch, length, intermediate_size]`` activations and gradients."""
    precision = torch.promote_types(z.dtype, torch.float32)
    z, h, grad_z, grad_h = (tensor.to(precision) for tensor in (z, h, grad_z, grad_h))
    taylor = (z - bias.to(precision)) * grad_z + h * grad_h
    if mask is not None:
        taylor = taylor * mask.unsqueeze(-1)
    return taylor.sum(1).abs().double().sum(0)


def _sample_losses(outputs: Any, batch: Mapping[str, Tensor], config: Any) -> Tensor:
    """Return the loss of each sample, ``[batch]``; span heads never look at padding."""
    if "start_positions" in batch and "end_positions" in batch:
        mask = batch.get("attention_mask")
        logits = outputs.start_logits, outputs.end_logits
        positions = batch["start_positions"], batch["end_positions"]
        return span_loss(*logits, *positions, token_mask=mask, reduction="none")
    if "labels" in batch:
        return sequence_losses(outputs.logits, batch["labels"], config)
    raise ValueError(f"a batch for importance needs labels or start and end positions; it has {sorted(batch)}")


@contextmanager
def _recording(layers: list[nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Keep every layer's feed-forward activations before and after the nonlinearity."""
    recorded: dict[str, list[Tensor]] = {"before": [], "after": []}

    def keep(where: str, value: Tensor) -> Tensor:
        if not value.requires_grad:
            value = value.detach().requires_grad_()  # a frozen model: the graph starts here
        recorded[where].append(value)
        return value

    handles = []
    for layer in layers:
        dense, whole = layer.intermediate.dense, layer.intermediate
        handles.append(dense.register_forward_hook(lambda _module, _args, output: keep("before", output)))
        handles.append(whole.register_forward_hook(lambda _module, _args, output: keep("after", output)))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
