"""The checks: each raises what it finds broken."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.contract.outcome import BrokenError, describe
from bench.contract.purity import run_without_values
from bench.contract.reload import replied
from bench.contract.specimen import Specimen, Start, begin, finish
from bench.data import model_inputs
from bench.method import Method, Skip
from bench.toys import toy_batches, toy_teacher

LITERALS = ("name", "summary", "paper")
COST_LENGTHS = (8, 32)
ARITHMETIC_TOLERANCE = 0.01


def check_literals(plugin: type[Method], name: str | None) -> str:
    """Compare the literals in the source with the imported class; the command line reads the former."""
    source = Path(inspect.getsourcefile(plugin) or "")
    written = _string_literals(source.read_text(encoding="utf-8"), plugin.__name__)
    for attribute in LITERALS:
        value = getattr(plugin, attribute, None)
        if not isinstance(value, str) or not value:
            raise BrokenError(f"{attribute} must be a string, not {value!r}")
        if written.get(attribute) != value:
            raise BrokenError(
                f"{attribute} is {value!r} but not as a literal in the body of {plugin.__name__} in {source}"
            )
    if name is not None and name != plugin.name:
        raise BrokenError(f"registered as {name!r} but name is {plugin.name!r}")
    return ""


def check_configuration(plugin: type[Method]) -> str:
    """Build the default configuration; knobs are described, and tuning may set what the grid names."""
    config = plugin.Config
    if not issubclass(config, BaseModel):
        raise BrokenError(f"Config must be a pydantic model, not {config!r}")
    plugin(config())
    if silent := [name for name, field in config.model_fields.items() if not field.description]:
        raise BrokenError(f"knobs without a description: {', '.join(silent)}")
    if config.model_config.get("extra") != "forbid":
        raise BrokenError("Config must forbid unknown keys: model_config = ConfigDict(extra='forbid')")
    for knob, values in plugin.grid.items():
        if knob != "learning_rate" and knob not in config.model_fields:
            raise BrokenError(f"grid names {knob!r}, which is no knob")
        for value in values:
            if knob != "learning_rate":
                config.model_validate({knob: value})
    return ""


def check_student(specimen: Specimen) -> None:
    """Look at what is evaluated, saved and timed: finite logits of the head's shape."""
    task, batch = specimen.start.task, specimen.start.batches[0]
    rows, length = batch["input_ids"].shape
    shape = (rows, length) if task.head == "extractive-qa" else (rows, task.num_labels)
    names = {"start_logits", "end_logits"} if task.head == "extractive-qa" else {"logits"}
    logits = specimen.logits
    if logits.keys() != names:
        raise BrokenError(f"outputs must hold {sorted(names)}, not {sorted(logits)}")
    for name, value in logits.items():
        if value.shape != shape or not value.isfinite().all():
            raise BrokenError(f"{name} must be finite, of shape {shape}, not {tuple(value.shape)}")


def check_teacher(specimen: Specimen) -> None:
    """Compare the teacher with a fresh copy of it, bit for bit."""
    now, fresh = specimen.start.teacher.state_dict(), toy_teacher(specimen.start.task).state_dict()
    if changed := _differing(now, fresh):
        raise BrokenError(f"the teacher changed: {changed[0]}, …")


def check_stages(specimen: Specimen) -> None:
    """Look at shares, names, terms and weights, at what was trained, and at the batches left behind."""
    stages = specimen.start.stages
    if not stages:
        return
    shares = [stage.share for stage in stages]
    if any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise BrokenError(f"the shares of the stages must be positive and sum to 1, not {shares}")
    if len({stage.name for stage in stages}) < len(stages):
        raise BrokenError(f"the names of the stages must differ: {[stage.name for stage in stages]}")
    for stage, terms in zip(stages, specimen.terms, strict=True):
        if wrong := [name for name, term in terms.items() if term.shape != () or not term.isfinite()]:
            raise BrokenError(f"stage {stage.name!r}: term {wrong[0]!r} is not a finite scalar")
        if unused := stage.objective.weights.keys() - terms.keys():
            raise BrokenError(f"stage {stage.name!r}: weights for terms that are not there: {sorted(unused)}")
    if not specimen.trained:
        raise BrokenError("training changed no parameter of the student")
    for batch, fresh in zip(specimen.start.batches, toy_batches(specimen.start.task), strict=True):
        if changed := _differing(batch, fresh):
            raise BrokenError(f"{changed[0]} of a batch was changed in place; the rows are shared")


def check_purity(specimen: Specimen) -> None:
    """Run each stage's step on tensors without values."""
    for index, stage in enumerate(specimen.start.stages):
        start = _again(
            specimen, layers=2
        )  # for each, since it is hollow afterwards; two layers show what four do
        try:
            run_without_values(start.stages[index].objective.train(), start.batches[0])
        except Exception as error:
            raise BrokenError(f"stage {stage.name!r} needs values of tensors: {describe(error)}") from error


def check_seed(specimen: Specimen) -> None:
    """Make the student again from the same seed."""
    again = finish(_again(specimen), specimen.folder.with_name(f"{specimen.folder.name}-again"))
    if changed := _differing(specimen.student.state_dict(), again.student.state_dict()):
        raise BrokenError(f"two students of one seed differ: {changed[0]}, …")


def check_cost(specimen: Specimen) -> None:
    """Hold the method's cost against the student's parameters and torch's own count of its arithmetic."""
    student = specimen.student
    parameters = sum(parameter.numel() for parameter in student.parameters())
    for length in COST_LENGTHS:
        cost = specimen.start.method.cost(student, length)
        if not parameters <= cost.stored_parameters <= max(parameters, _saved_elements(specimen.folder)):
            raise BrokenError(f"{cost.stored_parameters} stored parameters; the student has {parameters}")
        if cost.effective_parameters > cost.stored_parameters:
            raise BrokenError(f"more parameters effective than stored: {cost}")
        if cost.stored_encoder_parameters > cost.stored_parameters:
            raise BrokenError(f"more parameters in the encoder than in all: {cost}")
        counted = _multiply_adds(specimen, length)
        if abs(cost.multiply_adds - counted) > ARITHMETIC_TOLERANCE * counted:
            raise BrokenError(
                f"{cost.multiply_adds} multiply-adds at {length} tokens; torch counts {counted}"
            )


def check_reload(specimen: Specimen) -> None:
    """Compare the logits of the checkpoint in a fresh process with those of the student."""
    logits, deeds = replied(specimen)
    if changed := _differing(specimen.logits, logits):
        raise BrokenError(f"{changed[0]} of the reloaded student differ from those of the saved one")
    for deed in ("wrote", "called"):
        if deeds[deed]:
            raise BrokenError(f"loading {deed} {', '.join(deeds[deed][:3])}")


CHECKS: Mapping[str, Callable[[Specimen], None]] = {
    "student": check_student,
    "teacher-unchanged": check_teacher,
    "stages": check_stages,
    "objective-needs-no-values": check_purity,
    "same-seed-same-student": check_seed,
    "cost": check_cost,
}


def _again(specimen: Specimen, *, layers: int = 4) -> Start:
    start = begin(type(specimen.start.method), specimen.start.task.head, layers=layers)
    if isinstance(start, Skip):
        raise BrokenError(f"supported once, then not: {start.reason}")
    return start


def _differing(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> list[str]:
    """Return the names whose tensors are missing on one side or differ in a bit."""
    return [
        name
        for name in sorted(left.keys() | right.keys())
        if name not in left or name not in right or not torch.equal(left[name], right[name])
    ]


def _saved_elements(folder: Path) -> int:
    from safetensors import safe_open

    elements = 0
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            elements += sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
    return elements


def _multiply_adds(specimen: Specimen, length: int) -> int:
    ids = torch.ones(1, length, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": ids, "token_type_ids": torch.zeros_like(ids)}
    student, usual = specimen.student, specimen.student.config._attn_implementation
    student.set_attn_implementation("eager")  # torch counts no fused attention on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student(**model_inputs(student, batch))
    student.set_attn_implementation(usual)
    return int(counter.get_total_flops()) // 2


def _string_literals(source: str, class_name: str) -> dict[str, str]:
    """Read the string constants that a class body assigns, without running it."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.ClassDef) and node.name == class_name):
            continue
        for statement in node.body:
            targets = (
                statement.targets
                if isinstance(statement, ast.Assign)
                else [getattr(statement, "target", None)]
            )
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.update({target.id: value.value for target in targets if isinstance(target, ast.Name)})
    return found
