"""How a token finds its expert, and how evenly tokens spread (section 3.1 of the paper).

A hash routing is a table from token ids to experts, made before training. A gate is a trained linear map of the
attention output, of each token or of the mean over a sequence's tokens, with a loss that asks for balance.
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NOT_INPUTS = ("labels", "start_positions", "end_positions")


class GateOutput(NamedTuple):
    """What a gate decides.

    Attributes:
        logits: ``[batch, length, experts]``, for a sentence gate ``[batch, experts]``.
        probability: ``[batch, length]``, that of the winning expert.
        expert_ids: ``[batch, length]``, int64.
        balance_loss: Scalar.
    """

    logits: Tensor
    probability: Tensor
    expert_ids: Tensor
    balance_loss: Tensor


@dataclass(frozen=True)
class RoutingStatistics:
    """Where the tokens of some batches went; padding does not count.

    Attributes:
        counts: ``[layers, vocabulary, experts]``, int64: how often each token id visited each expert.
    """

    counts: Tensor

    @property
    def tokens(self) -> int:
        """Return the number of tokens seen."""
        return int(self.counts[0].sum())

    @property
    def load(self) -> Tensor:
        """Return each expert's share of the tokens, ``[layers, experts]``, float64."""
        return self.counts.sum(1) / torch.tensor(self.tokens, dtype=torch.float64)

    @property
    def entropy(self) -> Tensor:
        """Return the entropy of each layer's load in nats, ``[layers]``; log N if all experts are as busy."""
        entropy: Tensor = torch.special.entr(self.load).sum(1)
        return entropy

    @property
    def imbalance(self) -> Tensor:
        """Return the largest load over the mean load, ``[layers]``; 1 if all experts are as busy."""
        return self.load.amax(1) * self.load.shape[1]

    @property
    def assignment(self) -> Tensor:
        """Return the expert that each token id visited most, ``[layers, vocabulary]``; -1 if the id never came."""
        return self.counts.argmax(2).masked_fill(self.counts.sum(2) == 0, -1)


def random_hash(num_layers: int, vocab_size: int, num_experts: int, seed: int) -> Tensor:
    """Draw an expert for each token id in each layer, the same on every platform.

    The draw is four bytes of SHAKE-256 of seed and layer for each id, so a longer vocabulary keeps the experts of a
    shorter one.

    Returns:
        ``[layers, vocabulary]``, int64.
    """
    tables = []
    for layer in range(num_layers):
        digest = hashlib.shake_256(f"moebert:{seed}:{layer}".encode()).digest(4 * vocab_size)
        octets = torch.frombuffer(bytearray(digest), dtype=torch.uint8).view(vocab_size, 4).long()
        tables.append((octets << octets.new_tensor([24, 16, 8, 0])).sum(1) % num_experts)
    return torch.stack(tables)


def balanced_hash(token_frequency: Tensor, num_experts: int) -> Tensor:
    """Give token ids, the commonest first, to the expert that has the least load so far.

    Ids that never occur are dealt out in turn, so that they spread over the experts as well.

    Args:
        token_frequency: ``[vocabulary]``, how often each id occurs in the training tokens.
        num_experts: Experts of a layer.

    Returns:
        ``[vocabulary]``, int64.
    """
    frequencies, ids = token_frequency.sort(descending=True, stable=True)
    seen = int((frequencies > 0).sum())
    experts = torch.arange(len(ids)) % num_experts
    loads = [(0, expert) for expert in range(num_experts)]
    for place, frequency in enumerate(frequencies[:seen].tolist()):
        load, expert = loads[0]
        experts[place] = expert
        heapq.heapreplace(loads, (load + frequency, expert))
    return torch.empty_like(experts).scatter_(0, ids, experts)


class HashRouter(nn.Module):
    """Route all layers by token id.

    Attributes:
        table: ``[layers, vocabulary]``, int64, the expert of each id; part of the checkpoint.
    """

    table: Tensor

    def __init__(self, *, num_layers: int, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(num_layers, vocab_size, dtype=torch.int64))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the experts ``[layers, batch, length]`` of ids ``[batch, length]``."""
        experts: Tensor = self.table[:, input_ids]
        return experts


class Gate(nn.Module):
    """Choose an expert by the attention output of each token, or of the mean over a sequence's tokens."""

    def __init__(self, *, hidden_size: int, num_experts: int, per_sentence: bool) -> None:
        super().__init__()
        self.per_sentence = per_sentence
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))

    def forward(self, hidden_states: Tensor, token_mask: Tensor) -> GateOutput:
        """Route ``[batch, length, hidden]``; ``token_mask`` ``[batch, length]`` is 0 on padding.

        Computed in the weight's own precision, whatever autocast says: near ties should not be rounded to ties.
        """
        with torch.autocast(hidden_states.device.type, enabled=False):
            x, mask = hidden_states.to(self.weight.dtype), token_mask.to(self.weight.dtype)
            if self.per_sentence:
                x = (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
                mask = mask.amax(1)
            logits = F.linear(x, self.weight)
            probabilities, probability, expert_ids = winners(logits)
            loss = balance_loss(probabilities, expert_ids, mask)
        if self.per_sentence:
            probability = probability.unsqueeze(-1).expand_as(token_mask)
            expert_ids = expert_ids.unsqueeze(-1).expand_as(token_mask)
        return GateOutput(logits, probability, expert_ids, loss)


def winners(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probabilities ``[..., experts]``, and of the likeliest expert probability and number ``[...]``."""
    probabilities = logits.softmax(-1)
    expert_ids = logits.argmax(-1)  # of equal logits the first
    return probabilities, probabilities.gather(-1, expert_ids.unsqueeze(-1)).squeeze(-1), expert_ids


def balance_loss(probabilities: Tensor, expert_ids: Tensor, mask: Tensor) -> Tensor:
    """Return N Σ_i P_i f_i (section 3.1; Fedus et al., 2022): 1 if balanced, up to N if one expert has all.

    P_i is the mean probability of expert i, f_i the share of what it wins.

    Args:
        probabilities: ``[..., experts]``.
        expert_ids: ``[...]``, the winners.
        mask: ``[...]``, 0 for what does not count.
    """
    num_experts = probabilities.shape[-1]
    counted = mask.to(probabilities.dtype).unsqueeze(-1)
    weights = counted / counted.sum().clamp(min=1)
    wins = F.one_hot(expert_ids, num_experts) * weights
    mean_probability = probabilities * weights
    return num_experts * (mean_probability.flatten(0, -2).sum(0) * wins.flatten(0, -2).sum(0)).sum()


@torch.no_grad()
def expert_assignment(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the expert of every token in every layer, ``[layers, batch, length]``; padding included.

    Args:
        model: A MoEBERT of any head; a gate needs one forward pass, in the model's own mode.
        batch: ``input_ids`` and whatever else the model takes; labels are left aside.
    """
    base = model.base_model
    inputs = {name: value.to(model.device) for name, value in batch.items() if name not in NOT_INPUTS}
    if base.router is not None:
        experts: Tensor = base.router(inputs["input_ids"])
        return experts
    winners = torch.stack(base(**inputs).router_logits).argmax(-1)
    if winners.dim() == 2:
        winners = winners.unsqueeze(-1).expand(-1, -1, inputs["input_ids"].shape[1])
    return winners


@torch.no_grad()
def routing_statistics(model: Any, batches: Iterable[Mapping[str, Tensor]]) -> RoutingStatistics:
    """Count which experts the tokens of some batches visit, in eval mode.

    Args:
        model: A MoEBERT of any head.
        batches: Dicts with ``input_ids`` and, if there is padding, ``attention_mask``.

    Raises:
        ValueError: If the model is no MoEBERT, or there is no token to count.
    """
    config = model.config
    if not hasattr(config, "num_experts"):
        raise ValueError(f"{type(model).__name__} has no experts: give a MoEBERT")
    layers, vocab_size, experts = config.num_hidden_layers, config.vocab_size, config.num_experts
    counts = torch.zeros(layers, vocab_size * experts, dtype=torch.int64, device=model.device)
    training = model.training
    model.eval()
    try:
        for batch in batches:
            assignment = expert_assignment(model, batch).flatten(1)
            ids = batch["input_ids"].to(model.device)
            mask = batch.get("attention_mask", torch.ones_like(ids)).to(model.device)
            cells = ids.flatten() * experts + assignment
            counts.scatter_add_(1, cells, (mask != 0).long().flatten().expand_as(cells))
    finally:
        model.train(training)
    if not counts.any():
        raise ValueError("routing statistics need at least one token")
    return RoutingStatistics(counts.view(layers, vocab_size, experts).cpu())
