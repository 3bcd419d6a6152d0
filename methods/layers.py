"""Students of fewer layers than the teacher: which layers to take, and taking them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.method import Skip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel


def not_bert(teacher: PreTrainedModel) -> Skip | None:
    """Say why a teacher's layers cannot be taken apart, or None for a BERT."""
    if teacher.config.model_type == "bert":
        return None
    return Skip(f"needs a BERT teacher, not a {teacher.config.model_type}")


def spread_layers(teacher: PreTrainedModel, layers: int | None) -> list[int]:
    """Choose layers evenly, each the last of its equal share: 1, 3, 5, … for half of them.

    Args:
        teacher: A BERT.
        layers: How many; None means half, rounded up.

    Returns:
        Indices from 0; the last layer is always among them, so that the teacher's head fits.

    Raises:
        UserError: Where the teacher has fewer layers.
    """
    available = teacher.config.num_hidden_layers
    wanted = (available + 1) // 2 if layers is None else layers
    if not 1 <= wanted <= available:
        raise UserError(f"layers={wanted}: the teacher has {available}, choose 1 to {available}")
    return [available * (index + 1) // wanted - 1 for index in range(wanted)]


def take_layers(teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Copy a BERT with some of its encoder layers; embeddings, pooler and head come along.

    Returns:
        A model of the teacher's class whose parameters are trainable.
    """
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    student: PreTrainedModel = type(teacher)(config)
    position = {layer: index for index, layer in enumerate(layers)}
    prefix = f"{teacher.base_model_prefix}.encoder.layer."
    weights = {}
    for name, value in teacher.state_dict().items():
        layer, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix):
            weights[name] = value
        elif int(layer) in position:
            weights[f"{prefix}{position[int(layer)]}.{rest}"] = value
    student.load_state_dict(weights)
    return student
