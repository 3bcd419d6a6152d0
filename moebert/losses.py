"""The losses of the three heads: classes, scores, spans; as transformers' BERT computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig


def sequence_loss(
    logits: Tensor, labels: Tensor, config: PreTrainedConfig, *, reduction: str = "mean"
) -> Tensor:
    """Return the loss of a classification or regression head.

    Args:
        logits: ``[batch, labels]``.
        labels: ``[batch]`` classes or scores, or ``[batch, labels]``.
        config: Its ``problem_type`` decides; if None, the number of labels and their dtype do.
        reduction: "mean", or "none" for the loss of every sample ``[batch]``.
    """
    problem: str | None = config.problem_type
    if problem is None:
        several = "multi_label" if labels.is_floating_point() else "single_label"
        problem = "regression" if logits.shape[-1] == 1 else f"{several}_classification"
    if problem == "single_label_classification":
        return F.cross_entropy(logits, labels.view(-1), reduction=reduction)
    elementwise = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    losses = elementwise(logits, labels.view_as(logits).to(logits.dtype), reduction="none")
    return losses.mean() if reduction == "mean" else losses.mean(-1)


def span_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    starts: Tensor,
    ends: Tensor,
    *,
    token_mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the average of the cross-entropies of an answer's start and end.

    Args:
        start_logits: ``[batch, length]``.
        end_logits: ``[batch, length]``.
        starts: ``[batch]``; a position outside the sequence does not count.
        ends: ``[batch]``; a position outside the sequence does not count.
        token_mask: ``[batch, length]``, 0 on tokens that cannot be chosen.
        reduction: "mean" over the samples that count, or "none" for the loss of every sample ``[batch]``.
    """
    outside = start_logits.shape[1]
    losses = [
        F.cross_entropy(
            without_padding(logits, token_mask),
            positions.view(-1).clamp(0, outside),
            ignore_index=outside,
            reduction=reduction,
        )
        for logits, positions in ((start_logits, starts), (end_logits, ends))
    ]
    return (losses[0] + losses[1]) / 2


def without_padding(logits: Tensor, token_mask: Tensor | None) -> Tensor:
    """Lower the logits ``[batch, length]`` of padding so far that a softmax gives it nothing."""
    if token_mask is None:
        return logits
    return logits.masked_fill(token_mask == 0, torch.finfo(logits.dtype).min)
