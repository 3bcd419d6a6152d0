"""MoEBERT's feed-forward network as the lean encoder runs it: routed by a hash or by a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from moebert.experts import sort_by_expert
from moebert.layers import MoEBertExperts
from moebert.lean.fused import choose_expert, takes_blocks
from moebert.lean.parameters import needs_gradients
from moebert.routing import Gate

if TYPE_CHECKING:
    from moebert.experts import Dispatch
    from moebert.lean.layers import Attention
    from moebert.lean.products import TileList
    from moebert.lean.stream import Stream

WORTH_SORTING = 256  # tokens from which on sorted rows were measured to be faster


class Routed(NamedTuple):
    """Which expert each token visits; all layers that a hash routes are stacked in front.

    Attributes:
        dispatch: Without a gate.
        tiles: Of the sorted rows; None where they are not sorted.
    """

    dispatch: Dispatch
    tiles: TileList | None

    def layer(self, index: int) -> Routed:
        """Return those of one layer of a stack."""
        return Routed(self.dispatch.layer(index), self.tiles and self.tiles.layer(index))


class Experts(NamedTuple):
    """A layer's experts, and its gate if it has one."""

    experts: MoEBertExperts
    gate: Gate | None

    def route(self, expert_ids: Tensor, x: Tensor) -> Routed:
        """Sort the tokens of all layers by expert, once for them all.

        Args:
            expert_ids: ``[layers, tokens]``, what a hash says.
            x: ``[tokens, hidden]``, what the first layer is given.
        """
        dispatch = sort_by_expert(expert_ids, len(self.experts.weights.up))
        tiles = None
        if self._takes_sorted(x):
            from moebert.lean.products import list_tiles

            tiles = list_tiles(dispatch.ends, len(x))
        return Routed(dispatch, tiles)

    def by_hash(self, attention: Attention, x: Tensor, stream: Stream, routed: Routed) -> Tensor:
        """Run attention and experts on ``[tokens, hidden]``; where it pays, the rows between them are sorted."""
        dispatch, tiles = routed
        if tiles is None or not self._takes_sorted(x):
            outputs: Tensor = self.experts(attention(x, stream), dispatch)
            return outputs
        from moebert.lean.sorted_experts import sorted_experts

        rows = attention.in_order(x, stream, dispatch.order)
        return sorted_experts(rows, dispatch, tiles, self.experts.weights)

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
        """Say whether there are kernels for sorted rows that pay: for many tokens, without autograd."""
        weights = self.experts.weights
        if self.experts.config._experts_implementation not in ("auto", "fused") or len(x) < WORTH_SORTING:
            return False
        fed = takes_blocks(x, weights.up) and takes_blocks(x, weights.down)
        return fed and not needs_gradients(x, *weights[:-1])
