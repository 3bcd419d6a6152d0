"""The one adapter to TextBrewer: its distillation losses as an objective of this suite.

State what to match as TextBrewer's own configuration and get a pure tensor function, fit for CUDA-graph capture::

    Distillation(teacher, student, task, temperature=2.0, kd_weight=5.0, label_weight=2.0,
                 matches=[match("hidden", "cos", student=6, teacher=12)])

The terms and their sum are those of ``GeneralDistiller.compute_loss``. What TextBrewer 0.2.1 gets wrong is put right
here: soft targets carry the factor T² (Hinton et al. 2015, section 2.1); one logit is matched by MSE, not by a cross
entropy that is always zero; the padding of a span is no candidate; every match is masked, the cosine in fixed shapes;
attention means scores before the softmax; the teacher stays in eval mode; the caller's lists stay as they are.
"""

from __future__ import annotations

import copy
import functools
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import UserError, unknown
from bench.method import Objective
from methods.attention_scores import MASKED, recorded_scores
from methods.inputs import model_inputs

if TYPE_CHECKING:
    from types import ModuleType

    from transformers import PreTrainedModel

    from bench.tasks.task import Task

Schedule = Callable[[Tensor], Tensor]
"""Turn ``progress``, a 0-d tensor in [0, 1], into a factor of a term."""


class Match(TypedDict):
    """One intermediate match, in TextBrewer's own words.

    ``hidden`` counts from the embeddings' output (0) to the last layer's (number of layers), ``attention`` from 0 to
    the number of layers - 1. The losses ``gram``, ``fsp``, ``mmd`` and ``nst`` take two layers of each side. ``proj``
    is ``["linear" | "relu" | "tanh", student width, teacher width]``: a learned projection of the student's side.
    """

    feature: Literal["hidden", "attention"]
    loss: str
    layer_T: int | list[int]
    layer_S: int | list[int]
    weight: float
    proj: NotRequired[list[Any]]


def match(
    feature: Literal["hidden", "attention"],
    loss: str,
    *,
    student: int | list[int],
    teacher: int | list[int],
    weight: float = 1.0,
    widths: tuple[int, int] | None = None,
) -> Match:
    """Write a match in one line.

    Args:
        feature: What is matched.
        loss: One of TextBrewer's ``MATCH_LOSS_MAP``.
        student: The student's layer, or two.
        teacher: The teacher's.
        weight: Of the term.
        widths: The student's and the teacher's; where they differ, a linear projection is learned between them.
    """
    written: Match = {
        "feature": feature,
        "loss": loss,
        "layer_S": student,
        "layer_T": teacher,
        "weight": weight,
    }
    if widths is not None and widths[0] != widths[1]:
        written["proj"] = ["linear", *widths]
    return written


class Distillation(Objective):
    """Minimise TextBrewer's losses between a teacher and a student.

    The terms are ``kd`` (soft targets), ``labels`` (the student's own loss) and one for each match, named by its loss
    and layers: ``cos_6_12`` is the cosine of the student's 6th and the teacher's 12th layer.

    Args:
        teacher: Runs without gradients, always in eval mode.
        student: Trained.
        task: Decides the soft-target loss: cross entropy, its mean over start and end, or MSE for regression.
        temperature: T of the soft targets; T² is multiplied in, so that weights mean the same at every T.
        kd_weight: Weight of the soft targets; 0 leaves them out.
        label_weight: Weight of the labels; 0 leaves them out.
        matches: TextBrewer's ``intermediate_matches``.
        schedules: Name of a term -> function of ``progress`` that its value is multiplied by.

    Raises:
        UserError: Where a match names an unknown loss, feature or layer, two matches are the same, or nothing is left
            to minimise.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        task: Task,
        *,
        temperature: float = 1.0,
        kd_weight: float = 1.0,
        label_weight: float = 0.0,
        matches: Sequence[Match] = (),
        schedules: Mapping[str, Schedule] | None = None,
    ) -> None:
        super().__init__()
        if temperature <= 0 or kd_weight < 0 or label_weight < 0:
            raise UserError(f"need {temperature=} above 0, {kd_weight=} and {label_weight=} not below 0")
        self.teacher = teacher
        self.student = student
        checked = [_checked(stated, teacher, student) for stated in matches]
        targets = 2 if task.head == "extractive-qa" else 1  # TextBrewer sums start and end, we average
        config = _textbrewer().DistillationConfig(
            temperature=temperature,
            kd_loss_type="mse" if task.head == "regression" else "ce",
            kd_loss_weight=kd_weight * temperature**2 / targets,
            hard_label_weight=label_weight,
            intermediate_matches=checked,
        )
        self._distiller = _distiller(config, str(student.device))
        self.projections = nn.ModuleList(module for module in self._distiller.projs if module is not None)
        terms = [(_name(stated), float(stated["weight"])) for stated in checked]
        if kd_weight:
            terms.insert(0, ("kd", config.kd_loss_weight))
        if label_weight:
            terms.append(("labels", label_weight))
        self.weights = dict(terms)
        if not terms or len(self.weights) < len(terms):
            raise UserError(f"distillation needs terms, each once, not {[name for name, _ in terms]}")
        self.schedules = dict(schedules or {})
        for name in self.schedules.keys() - self.weights.keys():
            raise unknown("term", name, self.weights, where="schedules")
        self._features = {stated["feature"] for stated in checked}

    def train(self, mode: bool = True) -> Distillation:
        """Set the student's mode; a teacher in training mode would distil its dropout noise."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the terms of one batch; see the class for their names."""
        with torch.no_grad():
            teacher = self._outputs(self.teacher, batch, labels=False)
        student = self._outputs(self.student, batch, labels="labels" in self.weights)
        with torch.autocast(batch["input_ids"].device.type, enabled=False):
            _, losses = self._distiller.compute_loss(student, teacher)
        terms = dict(zip(self.weights, losses.values(), strict=True))
        for name, schedule in self.schedules.items():
            terms[name] = terms[name] * schedule(self.progress)
        return terms

    def _outputs(self, model: PreTrainedModel, batch: dict[str, Tensor], *, labels: bool) -> dict[str, Any]:
        """Run a model and name what TextBrewer reads, in full precision."""
        mask = batch["attention_mask"]
        inputs = model_inputs(model, batch, labels=labels)
        recorder: AbstractContextManager[list[Tensor]] = nullcontext([])
        if "attention" in self._features:
            recorder = recorded_scores(model, mask)
        with recorder as scores:
            outputs = model(**inputs, output_hidden_states="hidden" in self._features)
        results: dict[str, Any] = {"inputs_mask": mask, "attention": [_full(score) for score in scores]}
        if "kd" in self.weights:
            results["logits"] = [_full(logits) for logits in _logits(outputs, mask)]
        if "hidden" in self._features:
            results["hidden"] = [_full(states) for states in outputs.hidden_states]
        if labels:
            results["losses"] = [outputs.loss]
        return results


def masked_cosine(state_S: Tensor, state_T: Tensor, mask: Tensor) -> Tensor:  # noqa: N803 - called by these names
    """Average 1 - cosine over the tokens that are not padding (DistilBERT's loss), in fixed shapes.

    Args:
        state_S: Student's hidden states ``[batch, length, hidden]``.
        state_T: Teacher's.
        mask: 1 for tokens, 0 for padding, ``[batch, length]``.
    """
    mask = mask.to(state_S)
    distance = 1 - functional.cosine_similarity(state_S, state_T, dim=-1)
    return (distance * mask).sum() / mask.sum()


@functools.cache
def _textbrewer() -> ModuleType:
    """Import TextBrewer on first use, without the warnings of its age, and teach it our cosine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        import textbrewer
    textbrewer.MATCH_LOSS_MAP["masked_cos"] = masked_cosine
    module: ModuleType = textbrewer
    return module


def _distiller(config: Any, device: str) -> Any:
    """Build the distiller whose ``compute_loss`` we call; its training loop, models and folders stay unused."""
    textbrewer = _textbrewer()
    with tempfile.TemporaryDirectory() as folder:  # its configuration makes the folder it is given
        training = textbrewer.TrainingConfig(output_dir=folder, log_dir=None, device=device)
        return textbrewer.GeneralDistiller(training, config, None, None, None, None)


def _checked(stated: Match, teacher: PreTrainedModel, student: PreTrainedModel) -> Match:
    """Return our own copy of a match, after making sure that TextBrewer will understand it."""
    textbrewer = _textbrewer()
    if stated["feature"] not in textbrewer.FEATURES:
        raise unknown("feature", stated["feature"], textbrewer.FEATURES, where="match")
    if stated["loss"] not in textbrewer.MATCH_LOSS_MAP:
        raise unknown("loss", stated["loss"], textbrewer.MATCH_LOSS_MAP, where="match")
    for side, model, layers in (
        ("teacher", teacher, stated["layer_T"]),
        ("student", student, stated["layer_S"]),
    ):
        last = model.config.num_hidden_layers - (stated["feature"] == "attention")
        for layer in _as_list(layers):
            if not 0 <= layer <= last:
                raise UserError(f"match: the {side} has {stated['feature']} layers 0 to {last}, not {layer}")
    ours = copy.deepcopy(stated)
    if ours["loss"] == "cos":
        ours["loss"] = "masked_cos"
    return ours


def _name(stated: Match) -> str:
    """Name a match's term by its loss, the student's layers and the teacher's."""
    sides = ("-".join(map(str, _as_list(layers))) for layers in (stated["layer_S"], stated["layer_T"]))
    return "_".join([stated["loss"].removeprefix("masked_"), *sides])


def _as_list(layers: int | list[int]) -> list[int]:
    return layers if isinstance(layers, list) else [layers]


def _logits(outputs: Any, mask: Tensor) -> list[Tensor]:
    """Return ``[batch, labels]`` logits, or start and end ``[batch, length]`` with padding out of the running."""
    if "start_logits" in outputs:
        return [
            logits.masked_fill(mask == 0, MASKED) for logits in (outputs.start_logits, outputs.end_logits)
        ]
    return [outputs.logits]


def _full(tensor: Tensor) -> Tensor:
    """Raise half precision to fp32: counts of tokens and small differences do not fit in it."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
