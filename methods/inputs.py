"""What of a batch a model is given."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LABELS = ("labels", "start_positions", "end_positions")


def model_inputs(model: PreTrainedModel, batch: dict[str, Tensor], *, labels: bool) -> dict[str, Tensor]:
    """Choose what a model takes: ``token_type_ids`` only where its forward does, labels only if asked for."""
    taken = inspect.signature(model.forward).parameters
    return {name: value for name, value in batch.items() if name in taken and (labels or name not in LABELS)}
