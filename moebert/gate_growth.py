"""Give a gate more rows, each of which parts the tokens of the expert that is busiest by then.

A new row has to win tokens or its expert would never learn, and old rows stay as they are. Were it like the row beside
which it stands, the two would share a probability, and what the gate multiplies would shrink by up to half. So it
differs: along the direction in which that expert's tokens differ most, with none of their mean, so that about half of
them lie on its side, and by so much that their winning probability stays on average what it was. A token near the
border loses some of it, one far on the new side gains some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moebert.routing import NOT_INPUTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moebert.modeling import MoEBertPreTrainedModel

SAMPLE = 4096  # gate inputs a layer that are kept, up to twice as many


def split_gates(
    grown: MoEBertPreTrainedModel, old: int, inputs: list[Tensor], generator: torch.Generator
) -> list[list[int]]:
    """Fill the gates' rows from ``old`` on.

    Args:
        grown: Its old rows are those of its parent.
        old: Rows before.
        inputs: ``[tokens, hidden]`` of every layer, what the gates see; of none, what their LayerNorm says.
        generator: Draws inputs where there are none.

    Returns:
        The expert that each new one relieves, by layer.
    """
    parents: list[list[int]] = []
    for index, layer in enumerate(grown.base_model.encoder.layer):
        norm, rows = layer.attention.output.LayerNorm, layer.gate.weight
        seen = inputs[index] if inputs else _drawn_inputs(norm.weight, norm.bias, generator)
        parents.append([])
        for expert in range(old, len(rows)):
            known = rows[:expert].to("cpu", torch.float64)
            winners = (seen @ known.t()).argmax(1)
            busiest = int(torch.bincount(winners, minlength=expert).argmax())
            rows[expert] = (known[busiest] + _parting(seen[winners == busiest], known, busiest)).to(rows)
            parents[-1].append(busiest)
    return parents


@torch.no_grad()
def gate_inputs(student: MoEBertPreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> list[Tensor]:
    """Return an even sample of what each layer's gate sees, ``[tokens or sequences, hidden]``, float64.

    Raises:
        ValueError: If there is no batch.
    """
    kept: list[list[Tensor]] = [[] for _ in student.base_model.encoder.layer]
    stride, training = 1, student.training

    def keep(place: int) -> Any:
        def hook(gate: Any, arguments: tuple[Tensor, Tensor]) -> None:
            kept[place].append(_pooled(gate, *arguments)[::stride].to("cpu", torch.float64))

        return hook

    hooks = [
        layer.gate.register_forward_pre_hook(keep(place))
        for place, layer in enumerate(student.base_model.encoder.layer)
    ]
    student.eval()
    try:
        for batch in batches:
            student.base_model(
                **{name: value.to(student.device) for name, value in batch.items() if name not in NOT_INPUTS}
            )
            if sum(map(len, kept[0])) > 2 * SAMPLE:
                kept[:] = [[torch.cat(parts)[::2]] for parts in kept]
                stride *= 2
    finally:
        student.train(training)
        for hook in hooks:
            hook.remove()
    if not kept[0]:
        raise ValueError("batches are empty: growing under a gate needs at least one, or none given at all")
    return [torch.cat(parts) for parts in kept]


def _pooled(gate: Any, hidden_states: Tensor, token_mask: Tensor) -> Tensor:
    """Return what a gate maps to logits, without padding."""
    if not gate.per_sentence:
        return hidden_states[token_mask.bool()]
    mask = token_mask.to(hidden_states.dtype).unsqueeze(-1)
    return (hidden_states * mask).sum(1) / mask.sum(1).clamp(min=1)


def _drawn_inputs(weight: Tensor, bias: Tensor, generator: torch.Generator) -> Tensor:
    """Draw gate inputs as the LayerNorm before the gate spreads them: normal, by its weight and bias."""
    noise = torch.randn(SAMPLE, len(weight), generator=generator, dtype=torch.float64)
    return noise * weight.to("cpu", torch.float64) + bias.to("cpu", torch.float64)


def _parting(tokens: Tensor, rows: Tensor, busiest: int) -> Tensor:
    """Return what to add to a row so that it parts the tokens ``[tokens, hidden]`` that the row wins."""
    mean = tokens.mean(0)
    centred = tokens - mean
    towards = mean / mean.norm().clamp(min=1e-12)
    across = centred - (centred @ towards)[:, None] * towards
    direction = torch.linalg.eigh(across.t() @ across).eigenvectors[:, -1]
    sides = across @ direction
    spread = sides.square().mean().sqrt()
    if spread < 1e-9:
        raise ValueError("the busiest expert's tokens are all alike: give batches of more and other tokens")
    parting: Tensor = _length(tokens @ rows.t(), busiest, sides / spread) * direction / spread
    return parting


def _length(logits: Tensor, busiest: int, sides: Tensor) -> float:
    """Return the factor of ``sides`` at which a new logit beside the busiest keeps the mean winning probability."""
    before = logits.softmax(1).amax(1).mean()
    low, high = 0.0, 32.0
    for _ in range(30):
        middle = (low + high) / 2
        new = logits[:, busiest] + middle * sides
        after = torch.cat([logits, new[:, None]], 1).softmax(1).amax(1).mean()
        low, high = (middle, high) if after < before else (low, middle)
    return high
