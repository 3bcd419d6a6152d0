"""All that can be measured of a MoEBERT's experts, from its weights and one pass over some text."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.adaptation import expert_layers
from moebert.anatomy.labels import LabelAssociation, label_association
from moebert.anatomy.outputs import expert_outputs, linear_cka
from moebert.anatomy.replay import Logits, Recording, record, replaced, replay
from moebert.anatomy.weights import cut_from, expert_neurons, initial_neurons, movement, sibling_cosines
from moebert.routing import RoutingStatistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from transformers import PreTrainedModel

SAMPLE = 4096


@dataclass(frozen=True)
class Anatomy:
    """What was found; tensors are on the CPU, measures of weights and outputs are float64.

    Attributes:
        routing: Where the tokens went.
        visits: ``[sequences, layers, experts]``, int64, tokens of each sequence that visited each expert.
        logits: Of the model as it is, batch by batch.
        replaced: (layer, expert) -> the same with that expert replaced: its tokens go to one sibling in each
            sequence, to each sibling in every ``experts - 1``-th, so that a mean over sequences is one over siblings.
        output_cka: ``[layers, experts, experts]``, see ``linear_cka``.
        output_tokens: How many tokens these outputs are of.
        shared_cosine: ``[layers, experts, experts]``, see ``sibling_cosines``.
        own_cosine: Likewise.
        initial_cosine: ``[layers, experts]``, see ``movement``; None without a teacher, as are the next two.
        initial_distance: Likewise.
        initial_own_cosine: What ``own_cosine`` was before training.
        labels: None where sequences have no class.
    """

    routing: RoutingStatistics
    visits: Tensor
    logits: list[Logits]
    replaced: Mapping[tuple[int, int], list[Logits]]
    output_cka: Tensor
    output_tokens: int
    shared_cosine: Tensor
    own_cosine: Tensor
    initial_cosine: Tensor | None
    initial_distance: Tensor | None
    initial_own_cosine: Tensor | None
    labels: LabelAssociation | None


@torch.no_grad()
def dissect(
    model: PreTrainedModel,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    teacher: PreTrainedModel | None = None,
    sample: int = SAMPLE,
) -> Anatomy:
    """Measure the experts of a MoEBERT, in eval mode.

    Time goes into replacements: N experts in each of L layers need about N (L + 1) / 2 times the forward pass.

    Args:
        model: A MoEBERT with a sequence or span head; stays as it is.
        batches: Dicts with ``input_ids``, ``attention_mask`` and, if sequences have classes, int64 ``labels``.
        teacher: The dense model from which it was cut.
        sample: At most about this many tokens, spread evenly over the text, are run through every expert.

    Raises:
        ValueError: If there is no token, or the teacher is not of the model's shape.
    """
    layers = expert_layers(model)
    pairs = list(zip(layers, cut_from(model, teacher), strict=True)) if teacher else []
    training = model.training
    model.eval()
    try:
        seen = _read(model, batches, sample)
    finally:
        model.train(training)
    shared, own = _stacked(sibling_cosines(expert_neurons(e), e.neuron_indices) for e in layers)
    cosine = distance = own_before = None
    if pairs:
        cosine, distance = _stacked(
            movement(expert_neurons(e), initial_neurons(e, dense)) for e, dense in pairs
        )
        _, own_before = _stacked(
            sibling_cosines(initial_neurons(e, dense), e.neuron_indices) for e, dense in pairs
        )
    labels = None
    if all("labels" in batch and not batch["labels"].is_floating_point() for batch in batches):
        gold = torch.cat([batch["labels"].cpu() for batch in batches])
        labels = label_association(seen.visits, gold, model.config.num_labels)
    cka = [
        linear_cka(expert_outputs(experts, tokens.to(model.device)))
        for experts, tokens in zip(layers, seen.attended, strict=True)
    ]
    return Anatomy(
        routing=RoutingStatistics(seen.counts),
        visits=seen.visits,
        logits=seen.logits,
        replaced=seen.replaced,
        output_cka=torch.stack(cka).cpu(),
        output_tokens=seen.attended.shape[1],
        shared_cosine=shared,
        own_cosine=own,
        initial_cosine=cosine,
        initial_distance=distance,
        initial_own_cosine=own_before,
        labels=labels,
    )


@dataclass
class _Seen:
    """What the pass over the text has gathered so far."""

    counts: Tensor
    replaced: dict[tuple[int, int], list[Logits]]
    logits: list[Logits] = field(default_factory=list)
    by_batch: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # visits, attended

    @property
    def visits(self) -> Tensor:
        return torch.cat([visits for visits, _ in self.by_batch])

    @property
    def attended(self) -> Tensor:
        return torch.cat([attended for _, attended in self.by_batch], dim=1)


def _read(model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]], sample: int) -> _Seen:
    config = model.config
    layers, experts = config.num_hidden_layers, config.num_experts
    tokens = sum(int(_mask(batch).sum()) for batch in batches)
    if not tokens:
        raise ValueError("an anatomy needs at least one token")
    replacements = list(product(range(layers), range(experts))) if experts > 1 else []
    seen = _Seen(
        counts=torch.zeros(layers, config.vocab_size, experts, dtype=torch.int64),
        replaced={replacement: [] for replacement in replacements},
    )
    stride, tokens_before, sequences_before = -(-tokens // sample), 0, 0
    for batch in batches:
        recording = record(model, {name: value.to(model.device) for name, value in batch.items()})
        mask = _mask(batch)
        visits = F.one_hot(recording.assignment.cpu(), experts) * mask.flatten()[:, None]
        seen.counts.index_add_(1, batch["input_ids"].cpu().flatten(), visits)
        real = mask.flatten().nonzero().squeeze(1)
        sampled = real[(torch.arange(len(real)) + tokens_before) % stride == 0]
        attended = recording.attended[:, sampled.to(model.device)].cpu()
        by_sequence = visits.view(layers, *mask.shape, experts).sum(2).transpose(0, 1)
        seen.by_batch.append((by_sequence, attended))
        seen.logits.append(_on_cpu(recording.logits))
        turns = (torch.arange(len(mask)) + sequences_before).repeat_interleave(mask.shape[1])
        for layer, expert in replacements:
            visited = bool(visits[layer, :, expert].any())
            logits = _replace(model, recording, layer, expert, turns) if visited else recording.logits
            seen.replaced[layer, expert].append(_on_cpu(logits))
        tokens_before += len(real)
        sequences_before += len(mask)
    return seen


def _replace(model: PreTrainedModel, recording: Recording, layer: int, expert: int, turns: Tensor) -> Logits:
    """Return a batch's logits with an expert replaced; ``turns`` ``[tokens]`` counts the sequences."""
    experts = model.base_model.encoder.layer[layer].experts
    count = model.config.num_experts
    siblings = (expert + 1 + turns % (count - 1)) % count
    with replaced(experts, expert, siblings.to(model.device)):
        return replay(model, recording, layer)


def _mask(batch: Mapping[str, Tensor]) -> Tensor:
    """Return 1 for tokens and 0 for padding, ``[batch, length]``, int64, on the CPU."""
    ids = batch["input_ids"]
    return (batch.get("attention_mask", torch.ones_like(ids)) != 0).long().cpu()


def _on_cpu(logits: Logits) -> Logits:
    return tuple(side.cpu() for side in logits)


def _stacked(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Stack a pair of measures of each layer."""
    first, second = zip(*pairs, strict=True)
    return torch.stack(first).cpu(), torch.stack(second).cpu()
