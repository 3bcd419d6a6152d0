"""Run the checkpoints of BERT and MoEBERT without padding and with few kernels: the lean encoder."""

from __future__ import annotations

from moebert.lean.compatibility import why_not_lean
from moebert.lean.model import LeanModel
from moebert.lean.stream import Layout, Stream, pack

__all__ = ["Layout", "LeanModel", "Stream", "pack", "why_not_lean"]
