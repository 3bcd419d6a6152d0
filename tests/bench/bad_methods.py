"""Methods that each break one part of the contract, importable by a fresh process."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel

from bench.cost import Cost
from bench.method import Method, Objective, Skip, Stage
from bench.tasks.task import Task
from methods.finetune import Labels
from methods.layers import take_layers


class Knobs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=1, description="of the student")


class Good(Method):
    """Keeps the contract; the others change one thing."""

    name = "good"
    summary = "keeps the contract"
    paper = "none"
    Config = Knobs

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        return None if task.head == "classification" else Skip("one head is enough here")

    def compress(
        self, teacher: PreTrainedModel, calibration: Iterable[dict[str, Tensor]], task: Task
    ) -> PreTrainedModel:
        return take_layers(teacher, range(self.config.layers))

    def objective(self, student: PreTrainedModel) -> Objective:
        return Labels(student)

    def stages(self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task) -> list[Stage]:
        return [Stage("labels", 1.0, self.objective(student))]


# --- literals and configuration ------------------------------------------------------------------------------------


class ComputedName(Good):
    name = "-".join(["computed", "name"])
    summary = "its name is no literal"
    paper = "none"


class InheritedSummary(Good):
    name = "inherited-summary"
    paper = "none"


class EmptyPaper(Good):
    name = "empty-paper"
    summary = "no paper"
    paper = ""


class UndescribedKnob(Good):
    name = "undescribed-knob"
    summary = "a knob without description"
    paper = "none"

    class Config(Knobs):
        mystery: int = 1


class TakesAnyKey(Good):
    name = "takes-any-key"
    summary = "misspelt knobs pass"
    paper = "none"

    class Config(BaseModel):
        layers: int = Field(default=1, description="of the student")


class NoDefaults(Good):
    name = "no-defaults"
    summary = "a knob without default"
    paper = "none"

    class Config(Knobs):
        needed: int = Field(description="no default")


class GridOfNothing(Good):
    name = "grid-of-nothing"
    summary = "the grid names no knob"
    paper = "none"
    grid: ClassVar = {"layres": [1, 2]}


class GridOutOfRange(Good):
    name = "grid-out-of-range"
    summary = "the grid holds what the knob refuses"
    paper = "none"
    grid: ClassVar = {"layers": [1, "many"]}


def defined_in_a_function() -> type[Method]:
    class Local(Good):
        name = "local"
        summary = "no other process can import it"
        paper = "none"

    return Local


Local = defined_in_a_function()


# --- the student ---------------------------------------------------------------------------------------------------


class Raises(Good):
    name = "raises"
    summary = "cannot compress"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        raise ZeroDivisionError("nothing left")


class SkipsAll(Good):
    name = "skips-all"
    summary = "supports nothing"
    paper = "none"

    def supports(self, task: Any, teacher: Any) -> Skip | None:
        return Skip("not in the mood")


class KeepsTheTeacher(Good):
    name = "keeps-the-teacher"
    summary = "the student is the teacher"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        return teacher


class WrongShape(Good):
    name = "wrong-shape"
    summary = "logits of another task"
    paper = "none"

    def finalize(self, student: Any, stages: Any) -> Any:
        student.classifier = torch.nn.Linear(32, 7)
        return student


class TouchesTheTeacher(Good):
    name = "touches-the-teacher"
    summary = "rescales the teacher's weights"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        student = super().compress(teacher, calibration, task)
        with torch.no_grad():
            teacher.classifier.weight.mul_(1.5)
        return student


class Unseeded(Good):
    name = "unseeded"
    summary = "numbers from elsewhere"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        student = super().compress(teacher, calibration, task)
        with torch.no_grad():
            student.classifier.bias.add_(uuid4().int % 1000 + 1)
        return student


class ForgetsItsState(Good):
    name = "forgets-its-state"
    summary = "part of the student is not in its checkpoint"
    paper = "none"

    def finalize(self, student: Any, stages: Any) -> Any:
        student.classifier.register_forward_hook(lambda module, inputs, output: output * 2)
        return student


class CannotLoad(Good):
    name = "cannot-load"
    summary = "its load fails"
    paper = "none"

    def load(self, folder: Path, task: Task) -> PreTrainedModel:
        raise KeyError("quantized_weight")


class WritesWhenLoading(Good):
    name = "writes-when-loading"
    summary = "its load leaves a file"
    paper = "none"

    def load(self, folder: Path, task: Task) -> PreTrainedModel:
        Path("loaded.txt").write_text("yes")
        return super().load(folder, task)


# --- stages and objectives -----------------------------------------------------------------------------------------


class HalfTheBudget(Good):
    name = "half-the-budget"
    summary = "shares sum to a half"
    paper = "none"

    def stages(self, teacher: Any, student: Any, task: Any) -> list[Stage]:
        return [replace(stage, share=0.5) for stage in super().stages(teacher, student, task)]


class TwinStages(Good):
    name = "twin-stages"
    summary = "two stages of one name"
    paper = "none"

    def stages(self, teacher: Any, student: Any, task: Any) -> list[Stage]:
        return [replace(stage, share=0.5) for stage in super().stages(teacher, student, task) * 2]


class VectorLabels(Labels):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"labels": self.student(batch["input_ids"]).logits.square().mean(dim=0)}


class VectorTerm(Good):
    name = "vector-term"
    summary = "a term that is no scalar"
    paper = "none"

    def objective(self, student: Any) -> Objective:
        return VectorLabels(student)


class WeightForNothing(Good):
    name = "weight-for-nothing"
    summary = "weighs a term that is not there"
    paper = "none"

    def objective(self, student: Any) -> Objective:
        objective = Labels(student)
        objective.weights = {"lables": 0.5}
        return objective


class FrozenLabels(Labels):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if not hasattr(self, "own"):
            self.own = torch.nn.Parameter(torch.ones(()))
        return {"labels": super().forward(batch)["labels"].detach() * self.own}


class TrainsNothing(Good):
    name = "trains-nothing"
    summary = "gradients do not reach the student"
    paper = "none"

    def objective(self, student: Any) -> Objective:
        return FrozenLabels(student)


class MaskingLabels(Labels):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch["input_ids"][:, -1] = 3
        return super().forward(batch)


class ChangesTheBatch(Good):
    name = "changes-the-batch"
    summary = "writes into the rows"
    paper = "none"

    def objective(self, student: Any) -> Objective:
        return MaskingLabels(student)


class BranchingLabels(Labels):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = super().forward(batch)["labels"]
        return {"labels": loss * 2 if loss > 1 else loss}


class ReadsAValue(Good):
    name = "reads-a-value"
    summary = "branches on the loss"
    paper = "none"

    def objective(self, student: Any) -> Objective:
        return BranchingLabels(student)


class SelectingLabels(Labels):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.student(batch["input_ids"]).logits
        return {"labels": logits[batch["labels"] > 0].square().sum()}


class SelectsRows(Good):
    name = "selects-rows"
    summary = "shapes depend on the labels"
    paper = "none"

    def objective(self, student: Any) -> Objective:
        return SelectingLabels(student)


class LooseTensorLabels(Labels):
    def __init__(self, student: PreTrainedModel) -> None:
        super().__init__(student)
        self.scale = torch.tensor([2.0])

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"labels": (super().forward(batch)["labels"] * self.scale).sum()}


class LooseTensor(Good):
    name = "loose-tensor"
    summary = "a tensor that no device moves"
    paper = "none"

    def objective(self, student: Any) -> Objective:
        return LooseTensorLabels(student)


# --- cost ----------------------------------------------------------------------------------------------------------


class FlattersItself(Good):
    name = "flatters-itself"
    summary = "half the arithmetic"
    paper = "none"

    def cost(self, student: PreTrainedModel, length: int) -> Cost:
        honest = super().cost(student, length)
        return replace(honest, multiply_adds=honest.multiply_adds // 2)


class HidesParameters(Good):
    name = "hides-parameters"
    summary = "stored parameters left out"
    paper = "none"

    def cost(self, student: PreTrainedModel, length: int) -> Cost:
        honest = super().cost(student, length)
        return replace(honest, stored_parameters=honest.stored_parameters - 1)


class MoreThanStored(Good):
    name = "more-than-stored"
    summary = "more effective than stored"
    paper = "none"

    def cost(self, student: PreTrainedModel, length: int) -> Cost:
        honest = super().cost(student, length)
        return replace(honest, effective_parameters=honest.stored_parameters + 1)


# --- the world around ----------------------------------------------------------------------------------------------


class WritesHere(Good):
    name = "writes-here"
    summary = "a log in the working directory"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        Path("train.log").write_text("step 0")
        return super().compress(teacher, calibration, task)


class WritesFromC(Good):
    name = "writes-from-c"
    summary = "a file that Python does not open"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        torch._C.PyTorchFileWriter(str(Path.home() / "cache.pt")).write_end_of_file()
        return super().compress(teacher, calibration, task)


class WritesFarAway(Good):
    name = "writes-far-away"
    summary = "a folder beside the system's temporary files"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        folder = Path("/tmp", f"far-away-{uuid4()}")
        folder.mkdir()
        folder.rmdir()
        return super().compress(teacher, calibration, task)


class LeavesTemporaries(Good):
    name = "leaves-temporaries"
    summary = "a temporary folder that stays"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        tempfile.mkdtemp(prefix="forgotten-")
        return super().compress(teacher, calibration, task)


class CallsOut(Good):
    name = "calls-out"
    summary = "asks a server, and bears its silence"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        with suppress(OSError):
            socket.socket().connect(("192.0.2.1", 443))
        return super().compress(teacher, calibration, task)


class LooksUp(Good):
    name = "looks-up"
    summary = "resolves a name"
    paper = "none"

    def compress(self, teacher: Any, calibration: Any, task: Any) -> Any:
        with suppress(OSError):
            socket.getaddrinfo("models.example.org", 443)
        return super().compress(teacher, calibration, task)
