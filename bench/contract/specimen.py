"""One student of the method under test, made as the harness makes it, only small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.contract.outcome import BrokenError
from bench.data import model_inputs
from bench.method import Method, Skip, Stage
from bench.steps import LOSS, trained_parameters, weighted
from bench.tasks.task import HeadName, Task
from bench.toys import ToyBatches, toy_batches, toy_task, toy_teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEED = 1


@dataclass(frozen=True, eq=False)
class Start:
    """What there is before training.

    Attributes:
        method: With its default configuration.
        task: Of toy rows.
        teacher: Frozen.
        batches: Training batches.
        student: As ``compress`` gives it.
        stages: The method's.
    """

    method: Method
    task: Task
    teacher: PreTrainedModel
    batches: ToyBatches
    student: PreTrainedModel
    stages: list[Stage]


@dataclass(frozen=True, eq=False)
class Specimen:
    """What there is after training.

    Attributes:
        start: What it began with; its teacher and batches may have been touched since.
        student: Finalized, in eval mode.
        terms: Of each stage's first step.
        trained: Parameters of the student that the training changed.
        logits: The student's answers to the first batch.
        folder: The saved checkpoint.
    """

    start: Start
    student: PreTrainedModel
    terms: list[dict[str, Tensor]]
    trained: int
    logits: dict[str, Tensor]
    folder: Path


def begin(plugin: type[Method], head: HeadName, *, layers: int = 4) -> Start | Skip:
    """Compress a toy teacher and ask for the stages, or say why the method leaves the head out."""
    task = toy_task(head)
    method, teacher, batches = plugin(), toy_teacher(task, layers=layers), toy_batches(task)
    if skip := method.supports(task, teacher):
        return skip
    torch.manual_seed(SEED)
    student = method.compress(teacher, batches, task)
    theirs = {id(parameter) for parameter in teacher.parameters()}
    if shared := [name for name, parameter in student.named_parameters() if id(parameter) in theirs]:
        raise BrokenError(f"the student shares parameters with its teacher: {shared[0]}, …; copy them")
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return Start(method, task, teacher, batches, student, method.stages(teacher, student, task))


def finish(start: Start, folder: Path) -> Specimen:
    """Train for one step a batch, finalize and save."""
    torch.manual_seed(SEED)
    before = {name: value.clone() for name, value in start.student.named_parameters()}
    terms = [_train(start, stage) for stage in start.stages]
    after = dict(start.student.named_parameters())
    trained = sum(not torch.equal(value, after[name]) for name, value in before.items())
    student = start.method.finalize(start.student, start.stages)
    student.eval()
    student.save_pretrained(folder)
    return Specimen(start, student, terms, trained, answers(student, toy_batches(start.task)[0]), folder)


def answers(model: PreTrainedModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's logits by name."""
    with torch.inference_mode():
        outputs: Any = model(**model_inputs(model, {name: batch[name] for name in INPUTS}))
    return {name: value.clone() for name, value in outputs.items() if name.endswith("logits")}


INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def _train(start: Start, stage: Stage) -> dict[str, Tensor]:
    """Take one step a batch and return the terms of the first."""
    objective = stage.objective.train()
    start.teacher.eval()
    parameters = trained_parameters(start.student, objective, start.teacher)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3)
    first: dict[str, Tensor] = {}
    for step, batch in enumerate(start.batches):
        objective.progress.fill_(step / (len(start.batches) - 1))
        objective.refresh()
        terms = objective(batch)
        weighted(terms, objective)[LOSS].backward()
        optimizer.step()
        optimizer.zero_grad()
        first = first or terms
    return first
