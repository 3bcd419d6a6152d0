"""The paper's distillation losses (Eq. 5-7) as pure functions of tensors.

The whole objective is ``CE + λ (L_trm + L_pred)``, with the fine-tuned dense model from which the student was cut for a
teacher, in eval mode and outside the student. The options are the axes of the paper's ablation (section 4.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.losses import without_padding

if TYPE_CHECKING:
    from collections.abc import Sequence

Layers = Literal["all", "every-other", "last", "none"]
Positions = Literal["non-padding", "all"]


def distillation_losses(
    student: Any,
    teacher: Any,
    attention_mask: Tensor | None,
    *,
    layers: Layers = "all",
    prediction: bool = True,
    positions: Positions = "non-padding",
    regression: bool = False,
) -> dict[str, Tensor]:
    """Return the terms of L_distill (Eq. 7), each to be weighted with λ.

    Args:
        student: A model's outputs, with ``hidden_states`` unless ``layers`` is "none".
        teacher: The teacher's outputs for the same batch.
        attention_mask: ``[batch, length]``, 0 on padding; None if there is no padding.
        layers: Whose hidden states are matched; see matched_states.
        prediction: Whether predictions are matched.
        positions: "non-padding", or "all" as the paper's code does.
        regression: Whether the logits are scores: then predictions are matched by their MSE.

    Returns:
        "layers" and "prediction", as far as they are asked for.
    """
    mask = None if _checked(positions, Positions) == "all" else attention_mask
    losses = {}
    if _checked(layers, Layers) != "none":
        losses["layers"] = layer_loss(student.hidden_states, teacher.hidden_states, mask, layers=layers)
    if not prediction:
        return losses
    if "start_logits" in student:
        losses["prediction"] = span_kl(
            (student.start_logits, student.end_logits), (teacher.start_logits, teacher.end_logits), mask
        )
    elif regression:
        losses["prediction"] = F.mse_loss(student.logits, teacher.logits)
    else:
        losses["prediction"] = symmetric_kl(student.logits, teacher.logits)
    return losses


def layer_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None, *, layers: Layers = "all"
) -> Tensor:
    """Return L_trm (Eq. 5): the sum over the matched hidden states of their MSE.

    Args:
        student: ``[batch, length, hidden]`` of the embeddings and of every layer.
        teacher: As many of the same shape.
        mask: ``[batch, length]``, 0 where tokens do not count; None if all count.
        layers: See matched_states.
    """
    if len(student) != len(teacher):
        raise ValueError(f"the student has {len(student)} hidden states and the teacher {len(teacher)}")
    losses = []
    for index in matched_states(len(student) - 1, layers):
        ours, theirs = _precise(student[index]), _precise(teacher[index])
        if mask is None:
            losses.append(F.mse_loss(ours, theirs))
        else:
            per_token = (ours - theirs).square().mean(-1) * mask
            losses.append(per_token.sum() / mask.sum().clamp(min=1))
    return torch.stack(losses).sum()


def matched_states(num_layers: int, layers: Layers) -> list[int]:
    """Return which of the L + 1 hidden states are matched, 0 being the embeddings.

    "all" takes 0 … L, "every-other" L, L - 2, …, "last" L alone, "none" nothing.
    """
    every = list(range(num_layers + 1))
    chosen = {"all": every, "every-other": every[::-2][::-1], "last": every[-1:], "none": []}
    return chosen[_checked(layers, Layers)]


def symmetric_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return L_pred (Eq. 6): (KL(p‖p_t) + KL(p_t‖p)) / 2 of ``[batch, classes]``, mean over the batch."""
    ours = _precise(student_logits).log_softmax(-1)
    theirs = _precise(teacher_logits).log_softmax(-1)
    # the two divergences add up to Σ (p - p_t)(log p - log p_t)
    return ((ours.exp() - theirs.exp()) * (ours - theirs)).sum(-1).mean() / 2


def span_kl(
    student_logits: tuple[Tensor, Tensor], teacher_logits: tuple[Tensor, Tensor], mask: Tensor | None
) -> Tensor:
    """Return L_pred of a span head: the mean of its start's and its end's.

    Args:
        student_logits: Start and end, each ``[batch, length]``.
        teacher_logits: Start and end, each ``[batch, length]``.
        mask: ``[batch, length]``, 0 on tokens that cannot be chosen; None if all can.
    """
    (our_start, our_end), (their_start, their_end) = (
        tuple(without_padding(_precise(logits), mask) for logits in pair)
        for pair in (student_logits, teacher_logits)
    )
    return (symmetric_kl(our_start, their_start) + symmetric_kl(our_end, their_end)) / 2


def _precise(tensor: Tensor) -> Tensor:
    """Widen half precision: the differences are small."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _checked(option: str, known: Any) -> str:
    if option not in get_args(known):
        raise ValueError(f"unknown option {option!r}; known: {', '.join(get_args(known))}")
    return option
