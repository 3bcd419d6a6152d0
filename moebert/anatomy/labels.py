"""Which labels an expert serves, and whether that is more than chance.

The tokens of a sequence share its label, so they are no independent draws and a chi-square test over tokens would call
noise specialisation. Here chance is what is left when the labels of whole sequences are shuffled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class LabelAssociation:
    """How labels and experts go together.

    Attributes:
        counts: ``[layers, experts, labels]``, int64, tokens.
        lift: The same shape: share of a label among an expert's tokens over its share among all; NaN without tokens.
        chance_low: The same shape: lower end of the middle 95 % of lifts under shuffled labels.
        chance_high: Upper end.
        information: ``[layers]``, bits that a token's expert tells of its sequence's label.
        chance_information: ``[layers]``, mean bits under shuffled labels: never 0, since counts are finite.
        p_value: ``[layers]``, share of shuffles, the real one counted, that tell as much.
        shuffles: How many.
    """

    counts: Tensor
    lift: Tensor
    chance_low: Tensor
    chance_high: Tensor
    information: Tensor
    chance_information: Tensor
    p_value: Tensor
    shuffles: int


def label_association(
    visits: Tensor, labels: Tensor, num_labels: int, *, shuffles: int = 1000, seed: int = 0
) -> LabelAssociation:
    """Hold labels against experts, and against the same labels shuffled over sequences.

    Args:
        visits: ``[sequences, layers, experts]``, tokens of a sequence that visited an expert.
        labels: ``[sequences]``, int64.
        num_labels: Number of labels.
        shuffles: How many make up chance.
        seed: Of the shuffles; the default generator is left as it is.
    """
    tokens = visits.flatten(1).double()
    one_hot = torch.nn.functional.one_hot(labels, num_labels).double()
    generator = torch.Generator().manual_seed(seed)
    shape = (*visits.shape[1:], num_labels)
    counts = (tokens.T @ one_hot).view(shape)
    shuffled = torch.stack(
        [
            tokens.T @ one_hot[torch.randperm(len(labels), generator=generator)]
            for _ in range(shuffles)
        ]
    ).view(shuffles, *shape)  # fmt: skip
    lifts, by_chance = lift(shuffled), mutual_information(shuffled)
    low, high = (torch.quantile(lifts, share, dim=0) for share in INTERVAL)
    found = mutual_information(counts)
    # sums of the same tokens in another order may differ in the last bits
    as_much = (by_chance >= found - 1e-12).sum(0)
    return LabelAssociation(
        counts=counts.long(),
        lift=lift(counts),
        chance_low=low,
        chance_high=high,
        information=found,
        chance_information=by_chance.mean(0),
        p_value=(as_much + 1) / (shuffles + 1),
        shuffles=shuffles,
    )


def lift(counts: Tensor) -> Tensor:
    """Return each label's share among an expert's tokens over its share among all, ``[..., experts, labels]``."""
    of_expert = counts / counts.sum(-1, keepdim=True)
    by_label = counts.sum(-2, keepdim=True)
    return of_expert / (by_label / by_label.sum(-1, keepdim=True))


def mutual_information(counts: Tensor) -> Tensor:
    """Return the mutual information of expert and label in bits, ``[...]``, of counts ``[..., experts, labels]``."""
    joint = counts / counts.sum((-2, -1), keepdim=True)
    expected = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return (torch.xlogy(joint, joint) - torch.xlogy(joint, expected)).sum((-2, -1)) / torch.log(
        counts.new_tensor(2.0)
    )
