"""One optimiser step: forward, backward, clipping, AdamW with a tensor learning rate."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from bench.batching import Batch
from bench.errors import UserError
from bench.method import Objective
from results.record import Budget

if TYPE_CHECKING:
    from bench.encoded import Encoded

LOSS = ""  # key of the weighted sum beside the named terms
log = logging.getLogger(__name__)


class EagerStep:
    """Minimise an objective batch by batch, in plain eager mode.

    Attributes:
        execution: How most steps were taken, as the record names it.

    Args:
        objective: Gives the terms.
        parameters: Named parameters to train.
        rows: The training split, on the device.
        budget: Weight decay, clipping.
        precision: ``bf16`` runs the forward pass under autocast.
        micro_batch_size: Rows of one forward pass; halved whenever memory runs out, the batch stays whole.
    """

    execution: Literal["eager", "captured"] = "eager"

    def __init__(
        self,
        objective: Objective,
        parameters: dict[str, nn.Parameter],
        rows: Encoded,
        budget: Budget,
        precision: str,
        micro_batch_size: int,
    ) -> None:
        self.objective = objective
        self.parameters = list(parameters.values())
        self.rows = rows
        self.max_grad_norm = budget.max_grad_norm
        self.precision = precision
        self.micro_batch_size = micro_batch_size
        self.device = self.parameters[0].device
        self.learning_rate = torch.zeros((), device=self.device)
        self.optimizer = torch.optim.AdamW(
            decay_groups(parameters, budget.weight_decay),
            lr=self.learning_rate,
            fused=True,
            capturable=self.device.type == "cuda",
        )

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step and return the detached loss (under ``LOSS``) and its weighted terms.

        Raises:
            torch.OutOfMemoryError: Where one row alone does not fit.
        """
        chosen = self.rows.send(batch.indices, batch.length)
        while True:
            try:
                values = self._gradients(chosen, batch.length)
                break
            except torch.OutOfMemoryError:
                self.optimizer.zero_grad(set_to_none=True)
                if self.micro_batch_size == 1:
                    raise
                self.micro_batch_size = (self.micro_batch_size + 1) // 2
                log.warning("out of memory: going on with %d rows a forward pass", self.micro_batch_size)
        self._update()
        return values

    def refresh(self) -> None:
        """Let the objective do what it does between steps."""
        self.objective.refresh()

    def _gradients(self, chosen: Tensor, length: int) -> dict[str, Tensor]:
        """Accumulate gradients of the mean over the batch's rows, a micro-batch at a time."""
        total: dict[str, Tensor] = {}
        for indices in chosen.split(self.micro_batch_size):
            share = len(indices) / len(chosen)
            with self._autocast():
                terms = self.objective(self.rows.gather(indices, length))
            values = weighted(terms, self.objective)
            (values[LOSS] * share).backward()
            for name, value in values.items():
                part = value.detach() * share
                total[name] = total[name] + part if name in total else part
        return total

    def _update(self) -> None:
        """Clip the gradients, move the parameters, and drop the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def weighted(terms: dict[str, Tensor], objective: Objective) -> dict[str, Tensor]:
    """Weigh an objective's terms and add their sum under ``LOSS``."""
    if not terms:
        raise UserError(f"objective {type(objective).__name__} returned no terms to minimise")
    values = {name: term.float() * objective.weights.get(name, 1.0) for name, term in terms.items()}
    return {**values, LOSS: torch.stack(list(values.values())).sum()}


def trained_parameters(
    student: nn.Module, objective: Objective, teacher: nn.Module | None
) -> dict[str, nn.Parameter]:
    """Collect what is trained: the student's parameters and the objective's own, never the teacher's."""
    taken = {id(parameter) for parameter in teacher.parameters()} if teacher is not None else set()
    found: dict[str, nn.Parameter] = {}
    for prefix, module in (("student", student), ("objective", objective)):
        for name, parameter in module.named_parameters():
            if id(parameter) not in taken and parameter.requires_grad:
                taken.add(id(parameter))
                found[f"{prefix}.{name}"] = parameter
    return found


def decay_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Leave biases and normalisation out of the weight decay, as BERT's own training does."""
    spared = {name for name in parameters if "bias" in name.lower() or "norm" in name.lower()}
    groups: Iterator[tuple[bool, float]] = iter(((False, weight_decay), (True, 0.0)))
    return [
        {"params": chosen, "weight_decay": decay}
        for is_spared, decay in groups
        if (chosen := [parameter for name, parameter in parameters.items() if (name in spared) == is_spared])
    ]
