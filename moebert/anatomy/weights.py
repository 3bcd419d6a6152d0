"""How far experts moved from the neurons that they were cut from, and from each other.

A neuron of a feed-forward network is its column of W1, its b1 and its row of W2, one vector of ``2 hidden + 1``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.adaptation import check_same_shape, expert_layers
from moebert.importance import dense_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from moebert.layers import MoEBertExperts


def expert_neurons(experts: MoEBertExperts) -> Tensor:
    """Return the neurons of a layer's experts, ``[experts, size, 2 hidden + 1]``, float64."""
    parts = (experts.up_weight.transpose(1, 2), experts.up_bias.unsqueeze(2), experts.down_weight)
    return torch.cat(parts, dim=2).double()


def cut_from(model: PreTrainedModel, teacher: PreTrainedModel) -> list[Any]:
    """Return the dense layers that a model's experts were cut from.

    Raises:
        ValueError: If the teacher has another shape, or the experts were not cut from a dense model.
    """
    check_same_shape(teacher, model.config)
    if any((experts.neuron_indices < 0).any() for experts in expert_layers(model)):
        raise ValueError("the experts keep no neuron indices: they were not cut from a dense model")
    return dense_layers(teacher)


def initial_neurons(experts: MoEBertExperts, dense: Any) -> Tensor:
    """Return what ``expert_neurons`` were before training, by the kept indices."""
    up, down = dense.intermediate.dense, dense.output.dense
    neurons = torch.cat((up.weight, up.bias.unsqueeze(1), down.weight.T), dim=1).double()
    return neurons[experts.neuron_indices.to(neurons.device)]


def movement(now: Tensor, then: Tensor) -> tuple[Tensor, Tensor]:
    """Compare neurons ``[experts, size, width]`` with what they were.

    Returns:
        ``[experts]``: the mean over an expert's neurons of their cosine, and the distance of all of them together
        relative to their length at the start.
    """
    distance = (now - then).flatten(1).norm(dim=1) / then.flatten(1).norm(dim=1)
    return F.cosine_similarity(now, then, dim=2).mean(1), distance


def sibling_cosines(neurons: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the experts of a layer with each other, neuron by neuron.

    Args:
        neurons: ``[experts, size, width]``.
        indices: ``[experts, size]``, the dense neuron that each was; -1 if none.

    Returns:
        ``[experts, experts]`` twice. First the mean cosine of the neurons that both were given: 1 before training.
        Then, of the neurons that one was given and the other was not, the mean cosine of each with the most alike of
        the other's, in both directions. NaN where there is no such neuron.
    """
    directions = F.normalize(neurons, dim=2)
    experts = len(neurons)
    shared, own = (neurons.new_full((experts, experts), torch.nan) for _ in range(2))
    for a in range(experts):
        for b in range(a, experts):
            cosines = directions[a] @ directions[b].T
            same = (indices[a, :, None] == indices[b]) & (indices[b] >= 0)
            shared[a, b] = shared[b, a] = cosines[same].mean()
            alone = cosines[~same.any(1)][:, ~same.any(0)]
            if alone.numel():
                own[a, b] = own[b, a] = (alone.amax(1).mean() + alone.amax(0).mean()) / 2
    return shared, own
