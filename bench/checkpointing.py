"""Keep the state of an unfinished training, so that a killed one goes on bit for bit on a CPU.

Tensors go into one safetensors file, everything else into its JSON metadata; nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench.method import Objective
from results.record import StageRecord
from results.store import write_atomically


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        stage: Index of the stage under way.
        stage_step: Steps of it that are done.
        step: Steps of the whole training that are done.
        order_sha256: Chained digest of the row numbers seen.
        seconds: Spent so far, over all processes.
        micro_batch_size: In force.
        stages: Records of stages, the one under way last.
        meter_steps: Steps summed in the unfinished point of the curve.
    """

    micro_batch_size: int
    stage: int = 0
    stage_step: int = 0
    step: int = 0
    order_sha256: str = ""
    seconds: float = 0.0
    meter_steps: int = 0
    stages: list[StageRecord] = field(default_factory=list)


class Checkpointer:
    """Save the state of a training now and then, and find it again.

    Args:
        folder: Of this cell alone.
        every_seconds: Time between two saves.
    """

    def __init__(self, folder: Path, every_seconds: float = 60.0) -> None:
        self.file = folder / "state.safetensors"
        self.every_seconds = every_seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Say whether it is time to save."""
        return time.monotonic() - self._last >= self.every_seconds

    def save(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Keep the state, replacing the last one whole."""
        document = asdict(progress) | {"stages": [stage.model_dump() for stage in progress.stages]}
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(self.file, save(plain, metadata={"progress": json.dumps(document)}))
        self._last = time.monotonic()

    def load(self) -> tuple[Progress, dict[str, Tensor]] | None:
        """Return the state kept last, or None; an unreadable one counts as none."""
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, framework="pt") as opened:
                document: dict[str, Any] = json.loads(opened.metadata()["progress"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, KeyError, ValueError):
            self.clear()
            return None
        document["stages"] = [StageRecord.model_validate(stage) for stage in document["stages"]]
        return Progress(**document), tensors

    def clear(self) -> None:
        """Forget the state, once the training is done."""
        shutil.rmtree(self.file.parent, ignore_errors=True)


def training_state(
    student: nn.Module,
    teacher: nn.Module | None,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    meter: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Collect every tensor that a step changes: weights, buffers, the optimiser's state, random numbers."""
    state = {f"meter.{name}": value for name, value in meter.items()}
    state |= _changing_tensors(student, teacher, objective)
    for index, parameter in enumerate(_optimized(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"optimizer.{index}.{key}"] = value
    state["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["rng.cuda"] = torch.cuda.get_rng_state()
    return state


def restore_training_state(
    state: dict[str, Tensor],
    student: nn.Module,
    teacher: nn.Module | None,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Tensor]:
    """Put the tensors back where ``training_state`` took them and return the meter's."""
    with torch.no_grad():
        for name, tensor in _changing_tensors(student, teacher, objective).items():
            tensor.copy_(state[name])
    for index, parameter in enumerate(_optimized(optimizer)):
        prefix = f"optimizer.{index}."
        kept = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if kept:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in kept.items()}
    torch.set_rng_state(state["rng.cpu"])
    if "rng.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng.cuda"])
    return {name.removeprefix("meter."): value for name, value in state.items() if name.startswith("meter.")}


def _optimized(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _changing_tensors(
    student: nn.Module, teacher: nn.Module | None, objective: Objective
) -> dict[str, Tensor]:
    """Name every parameter and buffer of the student and the objective once, the teacher's left out."""
    seen = (
        {id(tensor) for tensor in [*teacher.parameters(), *teacher.buffers()]}
        if teacher is not None
        else set()
    )
    found: dict[str, Tensor] = {}
    for prefix, module in (("student", student), ("objective", objective)):
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"{prefix}.{name}"] = tensor
    return found
