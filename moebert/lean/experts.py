"""MoEBERT's feed-forward network as the lean encoder runs it: routed by a hash or by a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from moebert.experts import sort_by_expert
from moebert.experts.fused import HALVED
from moebert.layers import MoEBertExperts
from moebert.lean.fused import choose_expert, has_kernels
from moebert.lean.parameters import needs_gradients
from moebert.routing import Gate

if TYPE_CHECKING:
    from moebert.experts import Dispatch
    from moebert.lean.layers import Attention
    from moebert.lean.stream import Stream

WORTH_SORTING = 256  # tokens from which on sorted rows were measured to be faster


class Experts(NamedTuple):
    """A layer's experts, and its gate if it has one."""

    experts: MoEBertExperts
    gate: Gate | None

    def by_hash(self, attention: Attention, x: Tensor, stream: Stream, dispatch: Dispatch) -> Tensor:
        """Run attention and experts on ``[tokens, hidden]``; where it pays, the rows between them are sorted."""
        if not self._takes_sorted(x):
            outputs: Tensor = self.experts(attention(x, stream), dispatch)
            return outputs
        from moebert.lean.sorted_experts import sorted_experts

        rows = attention.in_order(x, stream, dispatch.order)
        return sorted_experts(rows, dispatch, self.experts.weights)

    def by_gate(self, x: Tensor, stream: Stream) -> Tensor:
        """Run the attention's output ``[tokens, hidden]``; the balance loss is left out.

        The gate chooses the expert of each token, or of each row for all of its tokens.
        """
        gate = self.gate
        assert gate is not None
        seen = x.to(gate.weight.dtype)
        if gate.per_sentence:
            seen = stream.padded(seen).sum(1) / stream.lengths.unsqueeze(1).to(seen.dtype)
        probability, expert_ids = choose_expert(seen, gate.weight)
        if gate.per_sentence:
            row = stream.cells // stream.layout.length
            probability, expert_ids = probability[row], expert_ids[row]
        dispatch = sort_by_expert(expert_ids, len(gate.weight))._replace(probability=probability)
        outputs: Tensor = self.experts(x, dispatch)
        return outputs

    def _takes_sorted(self, x: Tensor) -> bool:
        """Say whether there are kernels for sorted rows: on Hopper, in half precision, without autograd."""
        weights = self.experts.weights
        if self.experts.config._experts_implementation not in ("auto", "fused") or len(x) < WORTH_SORTING:
            return False
        if not has_kernels(x) or x.dtype not in HALVED or needs_gradients(x, *weights[:-1]):
            return False
        aligned = all(width % 8 == 0 for width in weights.up.shape[1:])
        small = (
            max(x.numel(), len(x) * weights.up.shape[2], weights.up.numel()) < 2**31
        )  # offsets are 32 bits
        return aligned and small and torch.cuda.get_device_capability(x.device) >= (9, 0)
