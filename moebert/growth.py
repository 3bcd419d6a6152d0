"""Give a trained MoEBERT more experts at the same active compute.

Every new expert takes over half of the tokens of the expert that is busiest by then: half of its token ids under a
hash, about half of what it wins under a gate (``gate_growth``). Nothing that an old expert holds changes.
"""

from __future__ import annotations

from copy import deepcopy
from math import inf
from typing import TYPE_CHECKING

import torch

from moebert.adaptation import (
    check_frequency,
    check_same_shape,
    copy_neurons,
    expert_layers,
    fresh_model,
    rank_neurons,
)
from moebert.configuration import MAX_EXPERTS
from moebert.gate_growth import gate_inputs, split_gates
from moebert.importance import dense_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from moebert.layers import MoEBertExperts
    from moebert.modeling import MoEBertPreTrainedModel


@torch.no_grad()
def grow(
    student: MoEBertPreTrainedModel,
    num_experts: int,
    *,
    teacher: PreTrainedModel | None = None,
    importance: Tensor | None = None,
    token_frequency: Tensor | None = None,
    batches: Iterable[Mapping[str, Tensor]] | None = None,
    perturbation: float = 0.01,
) -> MoEBertPreTrainedModel:
    """Return a copy of a student with more experts in each layer; a token still visits one.

    With ``teacher`` and ``importance`` a new expert holds the shared neurons and, dealt in turn, the most important
    ones that no expert holds yet. Without them it is a perturbed copy of the expert whose tokens it takes over.

    Args:
        student: A MoEBERT of any head; stays as it is.
        num_experts: Experts of a layer afterwards.
        teacher: The dense model from which the student was cut.
        importance: ``[layers, intermediate_size]``, from ffn_importance.
        token_frequency: ``[vocabulary]``, counts of training tokens: how busy the experts of a hash are.
            None: every id counts as much.
        batches: Of training data: how busy the experts of a gate are, and how their tokens differ.
            None: tokens are drawn as the LayerNorm before the gate spreads them, so real ones may part unevenly.
        perturbation: Noise on a copy's matrices, relative to their standard deviation.

    Raises:
        ValueError: If the arguments do not fit each other; the message says what fits.
    """
    if not hasattr(student.config, "num_experts"):
        raise ValueError(f"{type(student).__name__} has no experts: grow takes a MoEBERT")
    old = student.config.num_experts
    if not isinstance(num_experts, int) or not old < num_experts <= MAX_EXPERTS:
        raise ValueError(f"num_experts is {num_experts}; {old} experts can grow to {old + 1} … {MAX_EXPERTS}")
    if not 0 <= perturbation < inf:
        raise ValueError(f"perturbation is {perturbation}; it must be a finite number from 0")
    if (teacher is None) != (importance is None):
        raise ValueError("give teacher and importance together, or neither")
    hashed = student.config.routing.startswith("hash")
    if (batches if hashed else token_frequency) is not None:
        measure = "token_frequency" if hashed else "batches"
        raise ValueError(f"routing {student.config.routing!r} tells how busy experts are by {measure} alone")
    config = deepcopy(student.config)
    config.num_experts = num_experts
    grown = fresh_model(type(student), config, attn_implementation=config._attn_implementation)
    grown.to(device=student.device, dtype=student.dtype)
    _copy_old_experts(student, grown)
    generator = torch.Generator().manual_seed(config.routing_seed)
    if hashed:
        parents = _split_ids(grown.base_model.router.table, old, num_experts, token_frequency)
    else:
        inputs = [] if batches is None else gate_inputs(student, batches)
        parents = split_gates(grown, old, inputs, generator)
    if teacher is None or importance is None:
        for experts, copied in zip(expert_layers(grown), parents, strict=True):
            _copy_experts(experts, copied, old, perturbation, generator)
    else:
        check_same_shape(teacher, config)
        ranked = rank_neurons(config, importance, "importance")
        for experts, dense, ranks in zip(expert_layers(grown), dense_layers(teacher), ranked, strict=True):
            copy_neurons(dense, experts, _free_neurons(experts, ranks, old, config.shared_size), first=old)
    grown.train(student.training)
    return grown


def _copy_old_experts(student: MoEBertPreTrainedModel, grown: MoEBertPreTrainedModel) -> None:
    """Copy all weights; where the experts are stacked, the new ones' rows stay as they are."""
    target = grown.state_dict()
    for name, value in student.state_dict().items():
        target[name][: len(value)] = value


def _split_ids(table: Tensor, old: int, new: int, token_frequency: Tensor | None) -> list[list[int]]:
    """Move every second id of the busiest expert to the next new one, in each row of ``[layers, vocabulary]``.

    Returns:
        The expert that each new one took its ids from, by layer.
    """
    frequency = torch.ones(table.shape[1]) if token_frequency is None else token_frequency
    check_frequency(frequency, table.shape[1])
    weights = frequency.to(table.device, torch.float64)
    parents: list[list[int]] = []
    for row in table:
        parents.append([])
        for expert in range(old, new):
            busiest = int(weights.new_zeros(new).scatter_add_(0, row, weights).argmax())
            ids = (row == busiest).nonzero().squeeze(-1)
            commonest_first = weights[ids].argsort(descending=True, stable=True)
            row[ids[commonest_first[1::2]]] = expert
            parents[-1].append(busiest)
    return parents


def _copy_experts(
    experts: MoEBertExperts, copied: list[int], old: int, perturbation: float, generator: torch.Generator
) -> None:
    """Make the experts from ``old`` on copies of others, their matrices perturbed so that they can part."""
    for expert, parent in enumerate(copied, start=old):
        for tensor in (*experts.parameters(), experts.neuron_indices):
            tensor[expert] = tensor[parent]
        for matrix in (experts.up_weight[expert], experts.down_weight[expert]):
            noise = torch.randn(matrix.shape, generator=generator).to(matrix)
            matrix.add_(perturbation * matrix.std() * noise)


def _free_neurons(experts: MoEBertExperts, ranked: Tensor, old: int, shared: int) -> Tensor:
    """Return the neurons ``[new experts, size]`` of a layer's new experts.

    The first ``shared`` of any old expert are those that all hold.
    """
    held = experts.neuron_indices[:old].cpu()
    if (held < 0).any():
        raise ValueError(
            "the student's experts were not cut from a dense model: grow without teacher and importance"
        )
    new, own = len(experts.neuron_indices) - old, held.shape[1] - shared
    free = ranked[~torch.isin(ranked, held)]
    if new * own > len(free):
        most = len(free) // own
        fits = f"up to {most} new experts fit, or any number" if most else "any number fits"
        raise ValueError(
            f"{new} new experts need {new * own} neurons that no expert holds and {len(free)} are left; "
            f"{fits} without teacher and importance"
        )
    dealt = free[: new * own].view(own, new).t()
    return torch.cat([held[0, :shared].expand(new, -1), dealt], dim=1)
