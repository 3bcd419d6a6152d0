"""Global unstructured magnitude pruning on a cubic ramp (Zhu and Gupta 2018, arXiv 1710.01878), with distillation.

This is the "magnitude pruning + distillation" row of Sanh et al. 2020 (arXiv 2005.07683). Zeros in a dense matrix save
no time; the clock says what the student really takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bench.method import Method, Skip, Stage
from methods.distillation import Distillation
from methods.layers import not_bert, take_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.tasks.task import Task

SAMPLE = 8  # while the ramp rises, every eighth weight places the threshold well enough


class PruneMagnitudeConfig(BaseModel):
    """Knobs of ``prune-magnitude``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: float = Field(
        default=0.5, gt=0, le=1, description="share of the encoder's weights that stay non-zero"
    )
    ramp_start: float = Field(default=0.1, ge=0, lt=1, description="progress at which pruning begins")
    ramp_end: float = Field(
        default=0.7, gt=0, le=1, description="progress from which the zeros stay where they are"
    )
    temperature: float = Field(default=2.0, gt=0, description="T of the soft targets; T² is multiplied in")
    kd_weight: float = Field(default=0.9, ge=0, description="weight of the soft targets")
    label_weight: float = Field(default=0.1, ge=0, description="weight of the labels")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.ramp_start >= self.ramp_end:
            raise ValueError(f"ramp_start {self.ramp_start} must come before ramp_end {self.ramp_end}")
        return self

    def sparsity(self, progress: float) -> float:
        """Return the share of zeros at a progress in [0, 1] (Zhu and Gupta, equation 1, from 0)."""
        done = (progress - self.ramp_start) / (self.ramp_end - self.ramp_start)
        return (1 - self.keep) * (1 - (1 - min(max(done, 0.0), 1.0)) ** 3)


class Mask(nn.Module):
    """Zero some elements of a weight in every forward pass; zeroed elements get no gradient."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with its zeros."""
        return weight * self.mask


class PruningDistillation(Distillation):
    """Distil while the masks of the student follow the ramp."""

    def __init__(
        self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task, config: PruneMagnitudeConfig
    ) -> None:
        super().__init__(
            teacher,
            student,
            task,
            temperature=config.temperature,
            kd_weight=config.kd_weight,
            label_weight=config.label_weight,
        )
        self.config = config
        self.reached = 0.0

    def refresh(self) -> None:
        """Move the masks on, where the ramp has risen."""
        wanted = self.config.sparsity(float(self.progress))
        if wanted > self.reached:
            final = wanted == self.config.sparsity(1.0)
            raise_sparsity(self.student, wanted, sample=1 if final else SAMPLE)
            self.reached = wanted


class PruneMagnitude(Method):
    """Zero the encoder weights of smallest magnitude, gradually, while distilling from the teacher."""

    name = "prune-magnitude"
    summary = "global unstructured magnitude pruning on a cubic ramp, with distillation"
    paper = "movement2020"
    Config = PruneMagnitudeConfig
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"ramp_end": [0.7, 0.5]}

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        """Take any BERT."""
        return not_bert(teacher)

    def compress(
        self, teacher: PreTrainedModel, calibration: Iterable[dict[str, Tensor]], task: Task
    ) -> PreTrainedModel:
        """Copy the teacher and put a mask on each weight matrix of its encoder."""
        student = take_layers(teacher, range(teacher.config.num_hidden_layers))
        for linear in encoder_linears(student):
            parametrize.register_parametrization(linear, "weight", Mask(linear.weight))
        return student

    def stages(self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task) -> list[Stage]:
        """Prune and distil in one stage."""
        return [Stage("pruning", 1.0, PruningDistillation(teacher, student, task, self.config))]

    def finalize(self, student: PreTrainedModel, stages: list[Stage]) -> PreTrainedModel:
        """Write the zeros into the weights: an ordinary BERT is left."""
        raise_sparsity(student, 1 - self.config.keep, sample=1)
        for linear in encoder_linears(student):
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
        return student


def encoder_linears(model: PreTrainedModel) -> list[nn.Linear]:
    """Return the linear layers whose weights are pruned."""
    encoder: Any = model.base_model.encoder
    return [module for module in encoder.modules() if isinstance(module, nn.Linear)]


@torch.no_grad()
def raise_sparsity(model: PreTrainedModel, sparsity: float, *, sample: int) -> None:
    """Mask the globally smallest weights; what is masked already stays so.

    Args:
        model: Its encoder's linear layers carry a ``Mask``.
        sparsity: Share of the encoder's weights to mask.
        sample: The threshold is that of every ``sample``-th weight; 1 is exact.
    """
    linears: list[Any] = list(encoder_linears(model))
    magnitudes = torch.cat([linear.weight.abs().flatten()[::sample] for linear in linears])
    masked = round(sparsity * magnitudes.numel())
    if masked:
        threshold = magnitudes.kthvalue(masked).values
        for linear in linears:
            linear.parametrizations.weight[0].mask.copy_(linear.weight.abs() > threshold)
