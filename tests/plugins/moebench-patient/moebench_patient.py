"""Patient knowledge distillation (BERT-PKD, Sun et al. 2019, arXiv 1908.09355), skip strategy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from bench.method import Method, Skip, Stage
from methods.distillation import Distillation, match
from methods.layers import not_bert, spread_layers, take_layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from bench.tasks.task import Task


class PatientConfig(BaseModel):
    """Knobs of ``patient``, within the paper's search space."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int | None = Field(default=None, ge=1, description="encoder layers of the student; None: half")
    temperature: float = Field(default=10.0, gt=0, description="of the soft targets")
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="weight of the soft targets; labels get the rest"
    )
    beta: float = Field(
        default=100.0, ge=0, description="weight of the patient loss, divided among its layers"
    )


class Patient(Method):
    """Start from the teacher's first layers and follow its [CLS] states through every second layer but the last."""

    name = "patient"
    summary = "first layers; soft targets, labels, normalised [CLS] states of every second layer"
    paper = "pkd2019"
    Config = PatientConfig

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        """Take any BERT."""
        return not_bert(teacher)

    def compress(
        self, teacher: PreTrainedModel, calibration: Iterable[dict[str, Tensor]], task: Task
    ) -> PreTrainedModel:
        """Take as many layers as asked, from the bottom."""
        return take_layers(teacher, range(len(spread_layers(teacher, self.config.layers))))

    def stages(self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task) -> list[Stage]:
        """Minimise the three losses together (equation 9)."""
        config: PatientConfig = self.config
        followed = spread_layers(teacher, student.config.num_hidden_layers)[:-1]
        objective = Distillation(
            teacher,
            student,
            task,
            temperature=config.temperature,
            kd_weight=config.alpha,
            label_weight=1 - config.alpha,
            matches=[
                match(
                    "hidden", "pkd", student=index + 1, teacher=layer + 1, weight=config.beta / len(followed)
                )
                for index, layer in enumerate(followed)
            ],
        )
        return [Stage("distillation", 1.0, objective)]
