"""Experts in Triton kernels, where they can run; in plain torch elsewhere."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812
from transformers.activations import ACT2FN

from moebert.experts.contract import has_triton, product_dtype
from moebert.experts.grouped import grouped_experts

if TYPE_CHECKING:
    from torch import Tensor

    from moebert.experts.contract import Activation, Dispatch, ExpertWeights

# the kernels' names of transformers' activations
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
HALVED = (torch.bfloat16, torch.float16)

_logger = logging.getLogger(__name__)


def fused_experts(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Run the kernels; where they cannot run, say so once and run ``grouped``."""
    reason = why_not_fused(tokens, weights, activation)
    if reason is None:
        return _run(tokens, dispatch, weights, activation, dropout)
    _say_once(reason)
    return grouped_experts(tokens, dispatch, weights, activation, dropout)


def fastest_experts(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Run the kernels where they can run and were measured to be faster, which is in half precision."""
    fused = product_dtype(tokens) in HALVED and why_not_fused(tokens, weights, activation) is None
    run = _run if fused else grouped_experts
    return run(tokens, dispatch, weights, activation, dropout)


def why_not_fused(tokens: Tensor, weights: ExpertWeights, activation: Activation) -> str | None:
    """Return what keeps the kernels from running, None if nothing does."""
    if not tokens.is_cuda:
        return f"tokens are on {tokens.device.type}, not on a CUDA device"
    if torch.compiler.is_compiling():
        return "torch.compile has its own kernels"
    if not has_triton():
        return "triton is not installed"
    if tokens.dtype not in (*HALVED, torch.float32):
        return f"there are no kernels for {tokens.dtype}"
    if activation_name(activation) is None:
        return f"there is no kernel for the activation {activation}, only for {', '.join(ACTIVATIONS)}"
    if max(tokens.numel(), len(tokens) * weights.up.shape[2], weights.up.numel()) >= 2**31:
        return f"{len(tokens)} tokens need offsets of more than 31 bits"
    return None


def activation_name(activation: Activation) -> str | None:
    """Return the kernels' name of an activation, None if they do not have it."""
    return "gelu" if activation is F.gelu else _names_by_type().get(type(activation))


@cache
def _names_by_type() -> dict[type, str]:
    return {type(ACT2FN[theirs]): ours for theirs, ours in ACTIVATIONS.items()}


@cache
def _say_once(reason: str) -> None:
    _logger.warning("experts run by 'grouped' instead of 'fused': %s", reason)


def _run(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    from moebert.experts.triton_experts import triton_experts

    name = activation_name(activation)
    assert name is not None
    return triton_experts(tokens, dispatch, weights, name, dropout)
