"""What the experts of a trained MoEBERT learned: where tokens go, what changed, and what an expert is worth."""

from __future__ import annotations

from moebert.anatomy.dissection import Anatomy, dissect
from moebert.anatomy.labels import LabelAssociation

__all__ = ["Anatomy", "LabelAssociation", "dissect"]
