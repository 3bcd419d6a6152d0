"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108), its three losses in task-specific distillation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from bench.method import Method, Skip, Stage
from methods.distillation import Distillation, match
from methods.layers import not_bert, spread_layers, take_layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from bench.tasks.task import Task


class DistilBertConfig(BaseModel):
    """Knobs of ``distilbert``; the default weights are those of the paper's released training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int | None = Field(
        default=None,
        ge=1,
        description="encoder layers of the student; None: half of the teacher's, rounded up",
    )
    temperature: float = Field(default=2.0, gt=0, description="T of the soft targets; T² is multiplied in")
    kd_weight: float = Field(default=5.0, ge=0, description="weight of the soft targets")
    label_weight: float = Field(
        default=2.0, ge=0, description="weight of the labels (of masked words in the paper)"
    )
    cosine_weight: float = Field(
        default=1.0, ge=0, description="weight of 1 - cosine of the last hidden states, mean over tokens"
    )


class DistilBert(Method):
    """Take every second layer; learn from soft targets, labels and the direction of the last hidden states.

    The paper distils in pre-training; here the teacher is fine-tuned, as for every method of a comparison.
    """

    name = "distilbert"
    summary = "every second layer; soft targets, labels, cosine of the last hidden states"
    paper = "distilbert2019"
    Config = DistilBertConfig
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"temperature": [2.0, 4.0]}

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        """Take any BERT."""
        return not_bert(teacher)

    def compress(
        self, teacher: PreTrainedModel, calibration: Iterable[dict[str, Tensor]], task: Task
    ) -> PreTrainedModel:
        """Cut the teacher to size."""
        return take_layers(teacher, spread_layers(teacher, self.config.layers))

    def stages(self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task) -> list[Stage]:
        """Minimise the three losses together."""
        config: DistilBertConfig = self.config
        last = {"student": student.config.num_hidden_layers, "teacher": teacher.config.num_hidden_layers}
        cosine = match("hidden", "cos", **last, weight=config.cosine_weight)
        objective = Distillation(
            teacher,
            student,
            task,
            temperature=config.temperature,
            kd_weight=config.kd_weight,
            label_weight=config.label_weight,
            matches=[cosine] if config.cosine_weight else [],
        )
        return [Stage("distillation", 1.0, objective)]
