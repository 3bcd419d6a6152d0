"""How a token finds its expert: hash tables, gates, and the gates' balance loss.

Section 3.1 of the paper. A hash routing is a table from token ids to experts, drawn or balanced beforehand; a
gate is a trained linear map of the attention output, of each token or of the mean over a sentence's tokens.
"""

from __future__ import annotations

import hashlib
import heapq
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class GateOutput(NamedTuple):
    """What a gate decides for a batch."""

    logits: Tensor  # [batch, length, experts], or [batch, experts] for a sentence gate
    probability: Tensor  # [batch, length], of the winning expert
    expert_ids: Tensor  # [batch, length], int64
    balance_loss: Tensor  # scalar


def random_hash(num_layers: int, vocab_size: int, num_experts: int, seed: int) -> Tensor:
    """Draw an expert for every token id and layer, the same on every platform.

    Four bytes of SHAKE-256 of seed and layer for each id, so a longer vocabulary keeps the experts of a shorter.

    Returns:
        ``[layers, vocabulary]``, int64.
    """
    rows = []
    for layer in range(num_layers):
        digest = hashlib.shake_256(f"moebert:{seed}:{layer}".encode()).digest(4 * vocab_size)
        octets = torch.frombuffer(bytearray(digest), dtype=torch.uint8).view(vocab_size, 4).long()
        rows.append((octets * octets.new_tensor([1 << 24, 1 << 16, 1 << 8, 1])).sum(1) % num_experts)
    return torch.stack(rows)


def balanced_hash(token_frequency: Tensor, num_experts: int) -> Tensor:
    """Give token ids, commonest first, to the expert with the least load so far.

    Ids that never occur weigh one token together, so that they spread over the experts too.

    Args:
        token_frequency: ``[vocabulary]``, how often each id occurs in the training tokens.
        num_experts: Experts to share the ids.

    Returns:
        ``[vocabulary]``, int64.
    """
    weights = token_frequency.double() + 1 / len(token_frequency)
    table = torch.empty(len(token_frequency), dtype=torch.int64)
    loads = [(0.0, expert) for expert in range(num_experts)]
    for token in weights.argsort(descending=True, stable=True).tolist():
        load, expert = heapq.heappop(loads)
        table[token] = expert
        heapq.heappush(loads, (load + float(weights[token]), expert))
    return table


class HashRouter(nn.Module):
    """Route every layer by token id.

    Attributes:
        table: ``[layers, vocabulary]``, int64, the expert of each id; kept in the checkpoint.
    """

    table: Tensor

    def __init__(self, *, num_layers: int, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(num_layers, vocab_size, dtype=torch.int64))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Look up the experts of ``[batch, length]`` ids in all layers: ``[layers, batch, length]``."""
        return self.table[:, input_ids]


class Gate(nn.Module):
    """Choose an expert from the attention output, per token or per sentence."""

    def __init__(self, *, hidden_size: int, num_experts: int, per_sentence: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.per_sentence = per_sentence

    def forward(self, hidden_states: Tensor, token_mask: Tensor) -> GateOutput:
        """Route ``[batch, length, hidden]``; ``token_mask`` ``[batch, length]`` is 0 on padding.

        The product is computed in the weight's own precision: near ties must not depend on autocast.
        """
        batch, length, _ = hidden_states.shape
        with torch.autocast(hidden_states.device.type, enabled=False):
            x = hidden_states.to(self.weight.dtype)
            mask = token_mask.to(x.dtype)
            if self.per_sentence:
                x = (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
                mask = (mask.sum(1) > 0).to(x.dtype)
            logits = F.linear(x, self.weight)
            probabilities = logits.softmax(-1)
            probability, expert_ids = probabilities.gather(-1, winner(logits)), winner(logits)
            loss = balance_loss(probabilities, expert_ids.squeeze(-1), mask)
        if self.per_sentence:
            probability, expert_ids = probability.expand(batch, length), expert_ids.expand(batch, length)
        else:
            probability, expert_ids = probability.squeeze(-1), expert_ids.squeeze(-1)
        return GateOutput(logits, probability, expert_ids, loss)


def winner(logits: Tensor) -> Tensor:
    """Return the index of the largest logit ``[..., 1]``, of equal ones the lowest."""
    return logits.argmax(-1, keepdim=True)


def balance_loss(probabilities: Tensor, expert_ids: Tensor, mask: Tensor) -> Tensor:
    """Return N Σ_i P_i f_i of the routed items (section 3.1; Fedus et al., 2022).

    P_i is the mean probability of expert i and f_i the share of items that it wins; 1 if balanced.

    Args:
        probabilities: ``[..., experts]``.
        expert_ids: ``[...]``, the winners.
        mask: ``[...]``, 0 for items that do not count.
    """
    num_experts = probabilities.shape[-1]
    count = mask.sum().clamp(min=1)
    wins = F.one_hot(expert_ids, num_experts).to(probabilities.dtype)
    mean_probability = (probabilities * mask.unsqueeze(-1)).flatten(0, -2).sum(0) / count
    share = (wins * mask.unsqueeze(-1)).flatten(0, -2).sum(0) / count
    return num_experts * (mean_probability * share).sum()
