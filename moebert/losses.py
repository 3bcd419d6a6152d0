"""The loss of each sample under the three heads: classes, scores, spans."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedConfig


def sequence_losses(logits: Tensor, labels: Tensor, config: PreTrainedConfig) -> Tensor:
    """Return the loss of every sample of a classification or regression head, ``[batch]``.

    Args:
        logits: ``[batch, labels]``.
        labels: ``[batch]`` classes or scores, or ``[batch, labels]``.
        config: Its ``problem_type`` decides; if that is None, the number of labels and their dtype.
    """
    problem = config.problem_type
    if problem is None:
        several = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem = "regression" if logits.shape[-1] == 1 else several
    if problem == "regression":
        return F.mse_loss(logits, labels.view_as(logits).to(logits.dtype), reduction="none").mean(-1)
    if problem == "single_label_classification":
        return F.cross_entropy(logits, labels.view(-1), reduction="none")
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(-1)


def span_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    starts: Tensor,
    ends: Tensor,
    *,
    token_mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Average the cross-entropy of an answer's start and end.

    Args:
        start_logits: ``[batch, length]``.
        end_logits: ``[batch, length]``.
        starts: ``[batch]``; a position outside the sequence does not count.
        ends: ``[batch]``; a position outside the sequence does not count.
        token_mask: ``[batch, length]``, 0 on tokens that cannot be chosen (padding).
        reduction: "mean" over the samples that count, or "none" for ``[batch]``.
    """
    outside = start_logits.shape[1]
    total = start_logits.new_zeros(())
    for logits, positions in ((start_logits, starts), (end_logits, ends)):
        if token_mask is not None:
            logits = logits.masked_fill(token_mask == 0, torch.finfo(logits.dtype).min)
        target = positions.view(-1).clamp(0, outside)
        total = total + F.cross_entropy(logits, target, ignore_index=outside, reduction=reduction)
    return total / 2
