"""The importance of a dense BERT's feed-forward neurons (Eq. 4 of the paper)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moebert.losses import sequence_loss, span_loss
from moebert.routing import NOT_INPUTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from transformers import PreTrainedModel


def ffn_importance(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """Sum |w1_j · ∂L/∂w1_j + w2_j · ∂L/∂w2_j| over samples, for each feed-forward neuron j (Eq. 4).

    One backward pass serves a whole batch and no gradient of a weight is formed: for a single sample, with z before
    and h after the activation, ``w1_j · ∂L/∂w1_j = Σ_t (z_tj - b1_j) ∂L/∂z_tj`` and
    ``w2_j · ∂L/∂w2_j = Σ_t h_tj ∂L/∂h_tj``. Padding contributes nothing: no loss depends on it.

    Args:
        model: A BERT with a sequence or span head; its parameters may be frozen, its mode does not matter.
        batches: Training batches: dicts of tensors with ``labels``, or with ``start_positions`` and ``end_positions``.

    Returns:
        ``[layers, intermediate_size]``, float64, on the CPU.

    Raises:
        ValueError: If the model is not a dense BERT with such a head, there is no batch, or a batch lacks its labels.
    """
    layers = dense_layers(model)
    scores = torch.zeros(
        len(layers), model.config.intermediate_size, dtype=torch.float64, device=model.device
    )
    training, samples = model.training, 0
    model.train(False)
    try:
        for batch in batches:
            on_device = {name: value.to(model.device) for name, value in batch.items()}
            scores += _batch_scores(model, layers, on_device)
            samples += len(batch["input_ids"])
    finally:
        model.train(training)
    if samples == 0:
        raise ValueError("importance needs training batches; there was none")
    return scores.cpu()


def dense_layers(model: PreTrainedModel) -> list[Any]:
    """Return the layers of a dense BERT, first to last.

    Raises:
        ValueError: If the model has no such layers.
    """
    layers = list(getattr(getattr(model.base_model, "encoder", None), "layer", []))
    if not layers or not all(hasattr(layer, "intermediate") for layer in layers):
        raise ValueError(
            f"{type(model).__name__} is not a dense BERT: it has no feed-forward layers to split"
        )
    return layers


def _batch_scores(model: Any, layers: list[Any], batch: Mapping[str, Tensor]) -> Tensor:
    """Return one batch's scores ``[layers, intermediate_size]``, float64."""
    with torch.enable_grad(), _recorded(layers) as (before, after):
        outputs = model(**{name: value for name, value in batch.items() if name not in NOT_INPUTS})
        loss = _sample_losses(outputs, batch, model.config).sum()
        gradients = torch.autograd.grad(loss, before + after)
    grad_before, grad_after = gradients[: len(layers)], gradients[len(layers) :]
    rows = []
    for layer, z, h, grad_z, grad_h in zip(layers, before, after, grad_before, grad_after, strict=True):
        precise = torch.promote_types(z.dtype, torch.float32)
        bias = layer.intermediate.dense.bias.to(precise)
        taylor = (z.to(precise) - bias) * grad_z.to(precise) + h.to(precise) * grad_h.to(precise)
        rows.append(taylor.sum(1).abs().double().sum(0))
    return torch.stack(rows).detach()


@contextmanager
def _recorded(layers: list[Any]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Record every layer's ``[batch, length, intermediate_size]`` before and after the activation."""
    before: list[Tensor] = []
    after: list[Tensor] = []

    def recorder(kept: list[Tensor]) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
            # a frozen model has no graph yet: it starts at the first layer's activation
            kept.append(output if output.requires_grad else output.detach().requires_grad_())
            return kept[-1]

        return hook

    handles = [layer.intermediate.dense.register_forward_hook(recorder(before)) for layer in layers]
    handles += [layer.intermediate.register_forward_hook(recorder(after)) for layer in layers]
    try:
        yield before, after
    finally:
        for handle in handles:
            handle.remove()


def _sample_losses(outputs: Any, batch: Mapping[str, Tensor], config: Any) -> Tensor:
    """Return the loss of each sample ``[batch]``, whatever else is in the batch."""
    scored, spanned = "logits" in outputs and outputs.logits.dim() == 2, "start_logits" in outputs
    if not scored and not spanned:
        raise ValueError(f"importance needs a sequence or span head; the model gives {list(outputs)}")
    if scored and "labels" in batch:
        return sequence_loss(outputs.logits, batch["labels"], config, reduction="none")
    if spanned and "start_positions" in batch and "end_positions" in batch:
        return span_loss(
            outputs.start_logits,
            outputs.end_logits,
            batch["start_positions"],
            batch["end_positions"],
            token_mask=batch.get("attention_mask"),
            reduction="none",
        )
    needed = "labels" if scored else "start_positions and end_positions"
    raise ValueError(f"importance of this head needs {needed}; a batch has {sorted(batch)}")
