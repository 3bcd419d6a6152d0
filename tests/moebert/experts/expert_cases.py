"""Random inputs and weights of experts, and what an implementation makes of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from moebert.experts import Dispatch, ExpertWeights, find_implementation, fused, sort_by_expert

EPS = 1e-5


def random_case(
    tokens: int, experts: int, hidden: int, size: int, *, visited: int | None = None, gated: bool = True
) -> dict[str, Tensor]:
    """Return inputs, upstream gradients and weights in double precision, on the CPU."""
    shapes = {
        "up": (experts, hidden, size),
        "up_bias": (experts, size),
        "down": (experts, size, hidden),
        "down_bias": (experts, hidden),
        "norm": (experts, hidden),
        "norm_bias": (experts, hidden),
    }
    case = {name: torch.randn(shape, dtype=torch.float64) / hidden**0.5 for name, shape in shapes.items()}
    case["norm"] += 1
    case["tokens"], case["upstream"] = torch.randn(2, tokens, hidden, dtype=torch.float64)
    case["ids"] = torch.randperm(experts)[torch.randint(visited or experts, (tokens,))]
    if gated:
        case["probability"] = torch.rand(tokens, dtype=torch.float64) + 0.1
    return case


def run(
    name: str,
    case: dict[str, Tensor],
    device: str,
    dtype: torch.dtype,
    activation: str = "gelu",
    dropout: float = 0.0,
) -> list[Tensor]:
    """Return the outputs and the gradients of everything that has one."""
    ids = case["ids"].to(device)
    leaves = {
        key: value.to(device, dtype).requires_grad_()
        for key, value in case.items()
        if key not in ("ids", "upstream")
    }
    dispatch = sort_by_expert(ids, len(case["up"]))._replace(probability=leaves.get("probability"))
    weights = ExpertWeights(**{key: leaves[key] for key in ExpertWeights._fields[:-1]}, norm_eps=EPS)
    upstream = case["upstream"].to(device, dtype)
    return [*differentiate(name, leaves, dispatch, weights, upstream, activation, dropout)]


def differentiate(
    name: str,
    leaves: dict[str, Tensor],
    dispatch: Dispatch,
    weights: ExpertWeights,
    upstream: Tensor,
    activation: str,
    dropout: float,
) -> tuple[Tensor, ...]:
    implementation = kernels if name == "kernels" else find_implementation(name)
    outputs = implementation(leaves["tokens"], dispatch, weights, ACT2FN[activation], dropout)
    gradients = torch.autograd.grad(
        outputs, list(leaves.values()), upstream, materialize_grads=True, allow_unused=True
    )
    return outputs.detach(), *gradients


def kernels(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: nn.Module, dropout: float
) -> Tensor:
    """Run the kernels on whatever device, without a fall-back."""
    from moebert.experts.triton_experts import triton_experts

    name = fused.activation_name(activation)
    assert name is not None
    return triton_experts(tokens, dispatch, weights, name, dropout)


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Compare each tensor by its norm; what should be zero must be small beside the rest."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        error = (ours.double() - theirs).norm()
        assert error <= tolerance * theirs.norm().clamp(min=1e-2), f"{error} of {theirs.norm()}"
