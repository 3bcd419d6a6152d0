"""MoEBERT (Zuo et al., NAACL 2022): the feed-forward layers become top-1 mixtures of experts, distilled layer by layer.

The model, its adaptation and its losses are the library ``moebert``; here they meet the harness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bench.method import Method, Objective, Skip, Stage
from methods.inputs import model_inputs
from methods.layers import not_bert
from moebert import MoEBertConfig, adapt, ffn_importance
from moebert.cost import Head, count_parameters, multiply_adds
from moebert.distillation import Layers, distillation_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.cost import Cost
    from bench.tasks.task import Task


class MoEBertMethodConfig(BaseModel):
    """Knobs of ``moebert``; the defaults are the paper's, where it gives one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_experts: int = Field(default=4, ge=1, le=64, description="experts of every layer, N")
    expert_intermediate_size: int | None = Field(
        default=None,
        ge=1,
        description="neurons of one expert; None: a quarter of the teacher's (768 of 3072)",
    )
    shared_neurons: int | None = Field(
        default=None,
        ge=0,
        description="most important neurons that all experts hold, s; None: a sixth of the teacher's (512 of 3072)",
    )
    routing: Literal["hash-random", "hash-balanced", "gate-token", "gate-sentence"] = Field(
        default="hash-random", description="how a token finds its expert"
    )
    routing_seed: int = Field(default=0, ge=0, description="of the random hash and the gates' first weights")
    expert_dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout inside an expert")
    adaptation: Literal["importance", "random", "inverse"] = Field(
        default="importance", description="which neurons of the teacher rank first"
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
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"distill_weight": [1.0, 2.0, 5.0, 3.0]}

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        """Take any BERT."""
        return not_bert(teacher)

    def compress(
        self, teacher: PreTrainedModel, calibration: Iterable[dict[str, Tensor]], task: Task
    ) -> PreTrainedModel:
        """Rank the neurons on training batches (Eq. 4) and deal them out to the experts."""
        config: MoEBertMethodConfig = self.config
        shape = MoEBertConfig.from_bert(
            teacher.config,
            num_experts=config.num_experts,
            expert_intermediate_size=config.expert_intermediate_size,
            shared_neurons=config.shared_neurons,
            routing=config.routing,
            expert_dropout=config.expert_dropout,
            routing_seed=config.routing_seed,
            balance_loss_weight=0.0,  # the objective weighs it, as a term of its own
        )
        ranked = config.adaptation != "random"
        balanced = config.routing == "hash-balanced"
        return adapt(
            teacher,
            shape,
            importance=ffn_importance(teacher, calibration) if ranked else None,
            strategy=config.adaptation,
            token_frequency=token_frequency(calibration, teacher.config.vocab_size) if balanced else None,
        )

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


def token_frequency(batches: Iterable[Mapping[str, Tensor]], vocab_size: int) -> Tensor:
    """Count the tokens of training batches, padding left out, ``[vocabulary]``."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for batch in batches:
        tokens = batch["input_ids"][batch["attention_mask"].bool()]
        counts += torch.bincount(tokens.cpu(), minlength=vocab_size)
    return counts
