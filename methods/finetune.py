"""The control of every comparison: a smaller BERT trained on the labels, without a teacher's targets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from bench.method import Method, Objective, Skip, Stage
from methods.inputs import model_inputs
from methods.layers import not_bert, spread_layers, take_layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from bench.tasks.task import Task


class FineTuneConfig(BaseModel):
    """Knobs of ``finetune``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int | None = Field(
        default=None,
        ge=1,
        description="encoder layers of the student; None: half of the teacher's, rounded up",
    )


class Labels(Objective):
    """Minimise the student's own loss: cross entropy, its mean over start and end, or squared error."""

    def __init__(self, student: PreTrainedModel) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the one term, ``labels``."""
        return {"labels": self.student(**model_inputs(self.student, batch, labels=True)).loss}


class FineTune(Method):
    """Take evenly spread layers of the teacher and train them on labels alone (Sajjad et al. 2023, section 3)."""

    name = "finetune"
    summary = "teacher's layers cut to size, trained on labels alone"
    paper = "sajjad2023"
    Config = FineTuneConfig

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        """Take any BERT."""
        return not_bert(teacher)

    def compress(
        self, teacher: PreTrainedModel, calibration: Iterable[dict[str, Tensor]], task: Task
    ) -> PreTrainedModel:
        """Cut the teacher to size."""
        return take_layers(teacher, spread_layers(teacher, self.config.layers))

    def stages(self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task) -> list[Stage]:
        """Train on the labels, nothing else."""
        return [Stage("labels", 1.0, Labels(student))]
