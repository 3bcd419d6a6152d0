"""What a library of mixtures of experts offers for an anatomy: one function, ``dissect``, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Logits = tuple["Tensor", ...]  # [batch, labels], or starts and ends [batch, length]


class Routing(Protocol):
    """Where the tokens went.

    Attributes:
        counts: ``[layers, vocabulary, experts]``, int64.
    """

    counts: Tensor


class LabelAssociation(Protocol):
    """How labels and experts go together; ``[layers, experts, labels]`` and ``[layers]``, as in ``results.anatomy``."""

    counts: Tensor
    lift: Tensor
    chance_low: Tensor
    chance_high: Tensor
    information: Tensor
    chance_information: Tensor
    p_value: Tensor
    shuffles: int


class Dissection(Protocol):
    """What was found; ``results.anatomy`` says what each measure means. Tensors are on the CPU, NaN: no value.

    Attributes:
        routing: Where the tokens went.
        visits: ``[sequences, layers, experts]``, tokens of each sequence that visited each expert.
        logits: Of the model as it is, batch by batch.
        replaced: (layer, expert) -> the same with that expert's tokens sent to siblings.
        output_cka: ``[layers, experts, experts]``.
        output_tokens: How many tokens these outputs are of.
        shared_cosine: ``[layers, experts, experts]``.
        own_cosine: ``[layers, experts, experts]``.
        initial_cosine: ``[layers, experts]``; None without a teacher, as are the next two.
        initial_distance: ``[layers, experts]``.
        initial_own_cosine: ``[layers, experts, experts]``.
        labels: None where rows have no class.
    """

    routing: Routing
    visits: Tensor
    logits: list[Logits]
    replaced: Mapping[tuple[int, int], list[Logits]]
    output_cka: Tensor
    output_tokens: int
    shared_cosine: Tensor
    own_cosine: Tensor
    initial_cosine: Tensor | None
    initial_distance: Tensor | None
    initial_own_cosine: Tensor | None
    labels: LabelAssociation | None


class Dissect(Protocol):
    """Dissect a model of the library's own type; a ValueError says why a teacher does not belong to it."""

    def __call__(
        self,
        model: PreTrainedModel,
        batches: Sequence[Mapping[str, Tensor]],
        *,
        teacher: PreTrainedModel | None,
    ) -> Dissection:
        """Run ``batches`` through the model; ``teacher`` is the dense one that it was cut from."""
