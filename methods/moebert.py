"""MoEBERT (Zuo et al., NAACL 2022): the feed-forward layers become top-1 mixtures of experts, distilled layer by layer.

The model, its adaptation and its losses are the library ``moebert``; here they meet the harness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

from bench.method import Method, Objective, Skip, Stage
from methods.inputs import model_inputs
from methods.layers import not_bert
from moebert import MoEBertConfig, adapt, ffn_importance, grow
from moebert.configuration import MAX_EXPERTS
from moebert.cost import Head, count_parameters, multiply_adds
from moebert.distillation import Layers, distillation_losses

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from bench.cost import Cost
    from bench.method import Calibration
    from bench.tasks.task import Task


def _neurons(least: int) -> Callable[[Any], Any]:
    """Return a validator of a number of neurons from ``least`` on, or a share of the teacher's."""

    def check(value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if value is None or whole or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError(
            f"write a whole number of neurons from {least} up, or a share of the teacher's between 0 and 1"
        )

    return check


class MoEBertMethodConfig(BaseModel):
    """Knobs of ``moebert``; the defaults are the paper's, where it gives one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_experts: int = Field(default=4, ge=1, le=MAX_EXPERTS, description="experts of every layer, N")
    expert_intermediate_size: Annotated[int | float | None, BeforeValidator(_neurons(1))] = Field(
        default=None,
        description="neurons of one expert, below 1 a share of the teacher's; None: a quarter (768 of 3072)",
    )
    shared_neurons: Annotated[int | float | None, BeforeValidator(_neurons(0))] = Field(
        default=None,
        description="most important neurons that all experts hold, s, below 1 a share of the teacher's; "
        "None: a sixth (512 of 3072)",
    )
    routing: Literal["hash-random", "hash-balanced", "gate-token", "gate-sentence"] = Field(
        default="hash-random", description="how a token finds its expert"
    )
    routing_seed: int = Field(default=0, ge=0, description="of the random hash and the gates' first weights")
    expert_dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout inside an expert")
    adaptation: Literal["importance", "random", "inverse"] = Field(
        default="importance", description="which neurons of the teacher rank first"
    )
    grow_to: int | None = Field(
        default=None,
        ge=2,
        le=MAX_EXPERTS,
        description="experts of every layer to grow to before the training; None: none; not in the paper",
    )
    grow_from: Literal["neurons", "copies"] = Field(
        default="neurons",
        description="what grown experts start from: neurons of the teacher that no expert holds, or copies of "
        "the busiest experts",
    )
    experts: Literal["auto", "reference", "grouped", "fused"] = Field(
        default="auto", description="implementation of the experts; 'auto': the fastest where it runs"
    )
    distill: Literal["all", "every-other", "last", "prediction", "none"] = Field(
        default="all",
        description="hidden states matched beside the prediction; 'prediction': none; 'none': no teacher",
    )
    distill_weight: float = Field(default=1.0, ge=0, description="λ; the paper takes 1 to 5, by task")
    positions: Literal["non-padding", "all"] = Field(
        default="non-padding",
        description="tokens whose hidden states are matched; 'all' is the released code's",
    )
    balance_weight: float = Field(
        default=0.01, ge=0, description="weight of the gates' balance loss; the paper gives none, Switch 0.01"
    )

    @model_validator(mode="after")
    def _grows(self) -> MoEBertMethodConfig:
        if self.grow_to is not None and self.grow_to <= self.num_experts:
            raise ValueError(
                f"grow_to is {self.grow_to}; it must be more than num_experts={self.num_experts}"
            )
        return self


class LayerwiseDistillation(Objective):
    """Minimise CE + λ (L_trm + L_pred) (Eq. 7), and the balance loss where there are gates."""

    def __init__(
        self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task, config: MoEBertMethodConfig
    ) -> None:
        super().__init__()
        self.teacher, self.student, self.config = teacher, student, config
        self.regression = task.head == "regression"
        distill = config.distill
        self.layers: Layers = "none" if distill == "prediction" else distill
        self.weights = {}
        if distill != "none":
            self.weights["prediction"] = config.distill_weight
        if self.layers != "none":
            self.weights["layers"] = config.distill_weight
        if config.routing.startswith("gate"):
            self.weights["balance"] = config.balance_weight

    def train(self, mode: bool = True) -> LayerwiseDistillation:
        """Set the student's mode; a teacher in training mode would distil its dropout noise."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute ``labels``, ``layers``, ``prediction`` and ``balance``, as far as there are any."""
        states = self.layers != "none"
        outputs = self.student(
            **model_inputs(self.student, batch, labels=True), output_hidden_states=states, return_dict=True
        )
        terms = {"labels": outputs.loss}
        if outputs.balance_loss is not None:
            terms["balance"] = outputs.balance_loss
        if self.config.distill == "none":
            return terms
        with torch.no_grad():
            targets = self.teacher(
                **model_inputs(self.teacher, batch, labels=False),
                output_hidden_states=states,
                return_dict=True,
            )
        losses = distillation_losses(
            outputs,
            targets,
            batch["attention_mask"],
            layers=self.layers,
            positions=self.config.positions,
            regression=self.regression,
        )
        return terms | losses


class MoEBert(Method):
    """Cut every feed-forward layer into experts by importance and distil them from the dense teacher."""

    name = "moebert"
    summary = "feed-forward layers become top-1 mixtures of experts; layer-wise distillation"
    paper = "moebert2022"
    Config = MoEBertMethodConfig
    # The paper searched 1 to 5 and settled on 1 most often; four tries are three learning rates and the middle.
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"distill_weight": [1.0, 3.0, 5.0, 2.0, 4.0]}

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        """Take any BERT."""
        return not_bert(teacher)

    def compress(self, teacher: PreTrainedModel, calibration: Calibration, task: Task) -> PreTrainedModel:
        """Rank the neurons on training batches (Eq. 4), deal them out to the experts, and grow more if asked to."""
        config: MoEBertMethodConfig = self.config
        dense = teacher.config
        shape = MoEBertConfig.from_bert(
            dense,
            num_experts=config.num_experts,
            expert_intermediate_size=_of(config.expert_intermediate_size, dense.intermediate_size),
            shared_neurons=_of(config.shared_neurons, dense.intermediate_size),
            routing=config.routing,
            expert_dropout=config.expert_dropout,
            routing_seed=config.routing_seed,
            balance_loss_weight=0.0,  # the objective weighs it, as a term of its own
        )
        growing, hashed = config.grow_to is not None, config.routing.startswith("hash")
        from_neurons = growing and config.grow_from == "neurons"
        ranked = config.adaptation != "random" or from_neurons
        counted = config.routing == "hash-balanced" or (growing and hashed)
        importance = ffn_importance(teacher, calibration) if ranked else None
        frequency = calibration.token_frequency(dense.vocab_size) if counted else None
        student = adapt(
            teacher, shape, importance=importance, strategy=config.adaptation, token_frequency=frequency
        )
        if config.grow_to is not None:
            student = grow(
                student,
                config.grow_to,
                teacher=teacher if from_neurons else None,
                importance=importance if from_neurons else None,
                token_frequency=frequency,
                batches=None if hashed else calibration,
            )
        student.set_experts_implementation(config.experts)
        return student

    def stages(self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task) -> list[Stage]:
        """Train the experts and all else together, in one stage."""
        objective = LayerwiseDistillation(teacher, student, task, self.config)
        return [Stage("distillation", 1.0, objective)]

    def cost(self, student: PreTrainedModel, length: int) -> Cost:
        """Count by formula: a token visits one expert of every layer."""
        from bench.cost import Cost

        head: Head = "span" if hasattr(student, "qa_outputs") else "sequence"
        count = count_parameters(student.config, head=head)
        return Cost(
            stored_parameters=count.stored,
            effective_parameters=count.effective,
            stored_encoder_parameters=count.stored - count.embeddings,
            effective_encoder_parameters=count.effective - count.embeddings,
            multiply_adds=multiply_adds(student.config, length, head=head),
            length=length,
        )

    def load(self, folder: Path, task: Task) -> PreTrainedModel:
        """Reload a student; which implementation runs its experts is no part of a checkpoint."""
        student = super().load(folder, task)
        student.set_experts_implementation(self.config.experts)
        return student


def _of(neurons: int | float | None, intermediate_size: int) -> int | None:
    """Return a number of neurons; a share is one of ``intermediate_size``, rounded."""
    return round(neurons * intermediate_size) if isinstance(neurons, float) else neurons
