"""Count the parameters and multiply-adds of a model from its modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.data import model_inputs
from bench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

# A linear layer of these names makes the queries or the values of an attention (BERT's kin, DistilBERT).
_ATTENTION_PROJECTIONS = ("query", "value", "q_lin", "v_lin")


@dataclass(frozen=True)
class Cost:
    """Size and arithmetic of a model.

    Attributes:
        stored_parameters: All parameters, tied ones once.
        effective_parameters: Stored, minus exact zeros, minus those of experts that a token does not visit.
        stored_encoder_parameters: Stored, without the embeddings: what sizes are compared by.
        effective_encoder_parameters: Effective, without the embeddings.
        multiply_adds: For one sequence of ``length`` tokens; one fused multiply-add counts as one.
        length: Tokens, without padding.
    """

    stored_parameters: int
    effective_parameters: int
    stored_encoder_parameters: int
    effective_encoder_parameters: int
    multiply_adds: int
    length: int


def count(model: PreTrainedModel, length: int) -> Cost:
    """Count a dense model's parameters and its multiply-adds at ``length`` tokens.

    Arithmetic is that of linear layers and of the attention's score and value products, at the sizes the model
    has now (removed heads and neurons cost nothing). Left out: biases, LayerNorm, softmax, activations, look-ups,
    and products that no ``nn.Linear`` makes. A method with such products, or with conditional compute, adds its
    own in ``Method.cost``.

    Raises:
        UserError: If the model has fewer positions than ``length``.
    """
    stored, nonzero = _sizes(model.parameters())
    stored_embeddings, nonzero_embeddings = _sizes(_embeddings(model).parameters())
    return Cost(
        stored_parameters=stored,
        effective_parameters=nonzero,
        stored_encoder_parameters=stored - stored_embeddings,
        effective_encoder_parameters=nonzero - nonzero_embeddings,
        multiply_adds=_multiply_adds(model, length),
        length=length,
    )


def _sizes(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """Return the number of elements and of those that are not exactly zero."""
    tensors = list(parameters)
    return sum(p.numel() for p in tensors), sum(int(p.count_nonzero()) for p in tensors)


def _embeddings(model: PreTrainedModel) -> nn.Module:
    """Return the module with all embeddings, or the word embeddings where a model keeps no such module."""
    embeddings = getattr(model.base_model, "embeddings", None)
    return embeddings if isinstance(embeddings, nn.Module) else model.get_input_embeddings()


@torch.inference_mode()
def _multiply_adds(model: PreTrainedModel, length: int) -> int:
    """Run one sequence and add up what each linear layer does: a layer used twice counts twice."""
    positions = getattr(model.config, "max_position_embeddings", length)
    if not 1 <= length <= positions:
        name = type(model).__name__
        raise UserError(f"cannot count {length} tokens: {name} has positions for 1 to {positions}")
    total = 0

    def add(name: str) -> Any:
        def hook(layer: nn.Linear, _: Any, output: Tensor) -> None:
            nonlocal total
            total += output.numel() * layer.in_features
            if name in _ATTENTION_PROJECTIONS:
                # every query meets every key, and every score a value: length × length × width, twice
                total += output.numel() * length

        return hook

    training = model.training
    handles = [
        module.register_forward_hook(add(name.rpartition(".")[2]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        model.train(False)(**_one_sequence(model, length))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return total


def _one_sequence(model: PreTrainedModel, length: int) -> dict[str, Tensor]:
    """Return ``[1, length]`` inputs without padding; the count does not depend on the tokens."""
    ids = torch.zeros(1, length, dtype=torch.long, device=model.device)
    return model_inputs(model, {"input_ids": ids, "attention_mask": ids + 1, "token_type_ids": ids})
