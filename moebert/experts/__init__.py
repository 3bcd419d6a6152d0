"""Run the experts of one layer: one contract, several implementations."""

from __future__ import annotations

from difflib import get_close_matches

from moebert.experts.contract import Activation, Dispatch, ExpertWeights, Implementation, sort_by_expert
from moebert.experts.fused import fastest_experts, fused_experts
from moebert.experts.grouped import grouped_experts
from moebert.experts.reference import reference_experts

__all__ = [
    "DEFAULT_IMPLEMENTATION",
    "IMPLEMENTATIONS",
    "Activation",
    "Dispatch",
    "ExpertWeights",
    "Implementation",
    "find_implementation",
    "sort_by_expert",
]

IMPLEMENTATIONS: dict[str, Implementation] = {
    "reference": reference_experts,
    "grouped": grouped_experts,
    "fused": fused_experts,
    "auto": fastest_experts,
}
DEFAULT_IMPLEMENTATION = "auto"


def find_implementation(name: str) -> Implementation:
    """Return the implementation of a name.

    Raises:
        ValueError: If there is none; the message lists what there is.
    """
    if name not in IMPLEMENTATIONS:
        nearest = get_close_matches(name, IMPLEMENTATIONS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ";"
        raise ValueError(f"unknown experts implementation {name!r}{hint} known: {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]
