"""A runtime for BERT and MoEBERT alike, so that neither is favoured: the lean encoder, on a GPU as a CUDA graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bench.latency.runtimes import Run, Runtime, captured, direct
from bench.method import Skip
from moebert.lean import LeanModel, Stream, pack, why_not_lean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.utils.generic import ModelOutput


class Lean(Runtime):
    """Leave padding out before the clock starts, run the tokens that are left by few kernels, capture those."""

    name = "lean"
    summary = "the same weights without padding, by fused kernels; on a GPU launched as a CUDA graph"

    def runs(self, model: PreTrainedModel) -> Skip | None:
        """Leave out models with anything that the lean encoder does not know."""
        reason = why_not_lean(model)
        return None if reason is None else Skip(f"the lean encoder cannot run this model: {reason}")

    def prepare(self, model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> Run:
        """Pack the batches, and on a GPU capture a graph for each shape that they then have."""
        with torch.no_grad():
            lean = LeanModel(model)

        def run(**stream: Any) -> ModelOutput:
            return lean(Stream(**stream))

        streams = [pack(batch)._asdict() for batch in batches]
        return captured(run, streams) if model.device.type == "cuda" else direct(run, streams)
