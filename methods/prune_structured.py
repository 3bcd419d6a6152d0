"""Structured pruning: the least important attention heads and feed-forward neurons are removed, then distilled.

Importance is first-order, per sample (Michel et al. 2019, arXiv 1905.10650; Molchanov et al. 2019, arXiv 1906.10771).
Heads and neurons of all layers compete in one ranking, by importance for their price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bench.method import Method, Skip, Stage
from methods.distillation import Distillation
from methods.layers import not_bert
from methods.pruned_bert import prune
from methods.unit_importance import Importance, unit_importance

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.tasks.task import Task


class PruneStructuredConfig(BaseModel):
    """Knobs of ``prune-structured``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: float = Field(
        default=0.5, gt=0, le=1, description="share of the parameters of heads and neurons that stays"
    )
    price: Literal["parameters", "multiply-adds"] = Field(
        default="parameters", description="what a unit's importance is divided by in the ranking"
    )
    length: int = Field(default=128, ge=1, description="tokens of a sequence, for the price in multiply-adds")
    multiple: int = Field(
        default=8,
        ge=1,
        description="neurons are removed this many at a time; odd sizes are slow on accelerators",
    )
    temperature: float = Field(default=2.0, gt=0, description="T of the soft targets; T² is multiplied in")
    kd_weight: float = Field(default=0.9, ge=0, description="weight of the soft targets")
    label_weight: float = Field(default=0.1, ge=0, description="weight of the labels")


class PruneStructured(Method):
    """Remove the heads and neurons that matter least for what they cost; distil what is left."""

    name = "prune-structured"
    summary = "heads and neurons of least first-order importance removed, then distilled"
    paper = "michel2019"
    Config = PruneStructuredConfig
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"price": ["parameters", "multiply-adds"]}

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        """Take any BERT."""
        return not_bert(teacher)

    def compress(
        self, teacher: PreTrainedModel, calibration: Iterable[dict[str, Tensor]], task: Task
    ) -> PreTrainedModel:
        """Rank heads and neurons on the training batches and remove those at the end."""
        importance = unit_importance(teacher, calibration)
        heads, neurons = choose_units(importance, teacher.config.hidden_size, self.config)
        return prune(teacher, heads, neurons)

    def stages(self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task) -> list[Stage]:
        """Distil once."""
        config: PruneStructuredConfig = self.config
        objective = Distillation(
            teacher,
            student,
            task,
            temperature=config.temperature,
            kd_weight=config.kd_weight,
            label_weight=config.label_weight,
        )
        return [Stage("distillation", 1.0, objective)]


def choose_units(
    importance: Importance, hidden_size: int, config: PruneStructuredConfig
) -> tuple[list[Tensor], list[Tensor]]:
    """Choose the heads and neurons that stay, best importance for the price first.

    Every layer keeps its best head and its best group of neurons. A group is ``multiple`` neurons of neighbouring ranks
    in their layer; a layer's last may be smaller.

    Returns:
        Indices of the heads and of the neurons of each layer, ascending.
    """
    count = importance.heads.size(1)
    head_size = hidden_size // count
    ranked, order = importance.neurons.sort(dim=1, descending=True, stable=True)
    groups = torch.split(ranked, config.multiple, dim=1)
    sizes = torch.tensor([group.size(1) for group in groups])
    scores = torch.cat([importance.heads, torch.stack([group.sum(dim=1) for group in groups], dim=1)], dim=1)

    head, neuron = head_size * (4 * hidden_size + 3), 2 * hidden_size + 1
    parameters = torch.cat([torch.full((count,), head), sizes * neuron]).expand_as(scores)
    prices = parameters
    if config.price == "multiply-adds":
        head, neuron = head_size * (4 * hidden_size + 2 * config.length), 2 * hidden_size
        prices = torch.cat([torch.full((count,), head), sizes * neuron]).expand_as(scores)

    values = scores / prices
    values.scatter_(1, scores[:, :count].argmax(dim=1, keepdim=True), torch.inf)
    values[:, count] = torch.inf  # the best group is the first
    best_first = values.flatten().argsort(descending=True, stable=True)
    affordable = parameters.flatten()[best_first].cumsum(0) <= config.keep * parameters.sum()
    stays = values.isinf()
    stays.view(-1)[best_first[affordable]] = True

    heads = [layer.nonzero().flatten() for layer in stays[:, :count]]
    chosen = stays[:, count:].repeat_interleave(sizes, dim=1)
    return heads, [layer[kept].sort().values for layer, kept in zip(order, chosen, strict=True)]
