"""TinyBERT (Jiao et al. 2020, arXiv 1909.10351), its task-specific stages without data augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from bench.method import Method, Skip, Stage
from methods.distillation import Distillation, Match, match
from methods.layers import not_bert, spread_layers, take_layers
from methods.narrowing import narrow

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from bench.tasks.task import Task


class TinyBertConfig(BaseModel):
    """Knobs of ``tinybert``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int | None = Field(
        default=None,
        ge=1,
        description="encoder layers of the student; None: half of the teacher's, rounded up",
    )
    hidden_size: int | None = Field(
        default=None, ge=1, description="width of the student, a multiple of its heads; None: the teacher's"
    )
    intermediate_share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="share of the budget for the first stage (20 of 23 epochs in the paper)",
    )
    embedding_weight: float = Field(
        default=1.0, gt=0, description="weight of the embeddings' MSE, equation 9"
    )
    attention_weight: float = Field(
        default=1.0, gt=0, description="weight of each layer's attention MSE, equation 7"
    )
    hidden_weight: float = Field(
        default=1.0, gt=0, description="weight of each layer's hidden-state MSE, equation 8"
    )
    temperature: float = Field(default=1.0, gt=0, description="T of the soft targets, equation 10")


class TinyBert(Method):
    """Imitate the teacher's embeddings, attention scores and hidden states, then its predictions.

    Layers are mapped uniformly (layer m of M of the student to m·N/M of the teacher's N). Attention is matched before
    the softmax and hidden states of another width through a learned projection, one a match. The student starts from
    the teacher's layers, narrowed where ``hidden_size`` asks for it, not from the paper's general distillation.
    """

    name = "tinybert"
    summary = "two stages: embeddings, attention scores and hidden states, then predictions"
    paper = "tinybert2020"
    Config = TinyBertConfig
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"intermediate_share": [0.5, 0.87]}

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        """Take any BERT."""
        return not_bert(teacher)

    def compress(
        self, teacher: PreTrainedModel, calibration: Iterable[dict[str, Tensor]], task: Task
    ) -> PreTrainedModel:
        """Cut the teacher to size, in depth and, if asked, in width."""
        student = take_layers(teacher, spread_layers(teacher, self.config.layers))
        wanted = self.config.hidden_size
        return student if wanted in (None, teacher.config.hidden_size) else narrow(student, wanted)

    def stages(self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task) -> list[Stage]:
        """Match what is inside, then what comes out."""
        share = self.config.intermediate_share
        inside = Distillation(teacher, student, task, kd_weight=0.0, matches=self._matches(teacher, student))
        outside = Distillation(teacher, student, task, temperature=self.config.temperature)
        return [Stage("intermediate", share, inside), Stage("prediction", 1 - share, outside)]

    def _matches(self, teacher: PreTrainedModel, student: PreTrainedModel) -> list[Match]:
        config: TinyBertConfig = self.config
        widths = student.config.hidden_size, teacher.config.hidden_size
        layers = list(enumerate(spread_layers(teacher, student.config.num_hidden_layers)))

        def hidden(of_student: int, of_teacher: int, weight: float) -> Match:
            return match(
                "hidden", "hidden_mse", student=of_student, teacher=of_teacher, weight=weight, widths=widths
            )

        return [
            hidden(0, 0, config.embedding_weight),
            *(
                match("attention", "attention_mse", student=ours, teacher=its, weight=config.attention_weight)
                for ours, its in layers
            ),
            *(hidden(ours + 1, its + 1, config.hidden_weight) for ours, its in layers),
        ]
