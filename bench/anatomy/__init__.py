"""Measure what the experts of trained mixtures learned, of a run's checkpoints or of one by itself.

The harness loads checkpoint, teacher and text, scores and writes the record. What is inside an expert only the library
of the model knows: it is found by the checkpoint's ``model_type`` among the entry points ``moebench.anatomies``.
"""

from __future__ import annotations

from bench.anatomy.subjects import Subject, find
from bench.anatomy.work import Examined, examine, keep

__all__ = ["Examined", "Subject", "examine", "find", "keep"]
