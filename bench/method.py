"""The contract of a compression method: all that its author reads.

A method says how to make a student from a fine-tuned teacher and what to minimise while training it. Optimiser,
schedule, clipping, precision, batches, seeds, budget, evaluation, saving and timing belong to the harness and are the
same for every method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.cost import Cost
    from bench.latency.workloads import Workload
    from bench.tasks.task import Task


@dataclass(frozen=True)
class Skip:
    """Why a cell is left out; shown in the report, never a failure."""

    reason: str


class Objective(nn.Module):
    """Turn a batch into named scalar terms; their weighted sum is minimised.

    ``forward`` must be a pure tensor function: no ``.item()``, no Python branch or shape that depends on data, no host
    synchronisation, random numbers from the default generators only. A whole step can then be captured as a CUDA graph.
    Schedules read ``progress``. Parameters that are neither the teacher's nor the student's (a projection, say) are
    trained too and dropped after the stage.

    Attributes:
        weights: Weight of each term; a term that is not named weighs 1.
        progress: 0-d buffer in [0, 1] over the stage, kept up to date by the loop.
    """

    weights: Mapping[str, float | Tensor] = {}
    progress: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the terms of one batch.

        Args:
            batch: ``input_ids``, ``attention_mask``, ``token_type_ids``, each ``[batch, length]``, and ``labels``
                ``[batch]`` (or ``start_positions`` and ``end_positions`` ``[batch]``).
        """
        raise NotImplementedError

    def refresh(self) -> None:
        """Do what is dear or not a tensor function; called outside capture, 100 times a stage.

        What ``forward`` is to see of it stands in a buffer or parameter: captured steps keep a plain number as it was.
        """


@dataclass(frozen=True)
class Stage:
    """One part of the training, with a fresh optimiser and schedule.

    Attributes:
        name: What the record and the training curve call it.
        share: Share of the one budget; the shares of a method sum to 1.
        objective: What to minimise.
    """

    name: str
    share: float
    objective: Objective


class Calibration(Protocol):
    """What ``compress`` sees of the data: the training rows of this cell, in a tuning try without those held out.

    The batches are drawn from at most ``calibration_rows`` of them, as the matrix says; counts are of all.
    """

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches as ``Objective.forward`` takes them, with labels; may be iterated more than once."""
        ...

    def token_frequency(self, vocab_size: int) -> Tensor:
        """Count how often each token id occurs in all training rows, ``[vocab_size]``, int64; padding left out."""
        ...


class Method(ABC):
    """Make a student from a fine-tuned teacher, and say what to minimise while training it.

    The harness calls ``supports``, ``compress``, ``stages``, trains, then ``finalize``; what ``finalize`` returns is
    evaluated, saved, reloaded with ``load`` and timed. ``name``, ``summary`` and ``paper`` must be literals: the
    command line reads them from the source without importing it.

    Attributes:
        name: What the command line and the tables show.
        summary: One line.
        paper: Key into the published references; the paper's numbers are shown beside ours.
        Config: Every knob, validated, with units and the paper's default.
        grid: Knobs that equal tuning may try, the best guess first; "learning_rate" only where the method needs others
            than the rest.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    Config: ClassVar[type[BaseModel]]
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}

    def __init__(self, config: BaseModel | None = None) -> None:
        """Keep the configuration; None means the defaults."""
        self.config: Any = self.Config() if config is None else config

    def supports(self, task: Task, teacher: PreTrainedModel) -> Skip | None:
        """Return why this task or teacher cannot be handled, or None."""
        return None

    def runs(self, runtime: str, workload: Workload) -> Skip | None:
        """Return why the student cannot be timed under this runtime, or None."""
        return None

    @abstractmethod
    def compress(self, teacher: PreTrainedModel, calibration: Calibration, task: Task) -> PreTrainedModel:
        """Make the student, ready to train (or finished, where there are no stages).

        All of its parameters will be trained, whatever ``requires_grad`` says here; ``stages`` may freeze some.

        Args:
            teacher: Fine-tuned on the task, frozen, in eval mode; a copy of this cell's own.
            calibration: Training batches with labels, and counts of the training tokens.
            task: What the student is for.
        """

    def stages(self, teacher: PreTrainedModel, student: PreTrainedModel, task: Task) -> list[Stage]:
        """Return the training stages, shares of one budget; none means that the student is done."""
        return []

    def finalize(self, student: PreTrainedModel, stages: list[Stage]) -> PreTrainedModel:
        """Return what is evaluated, saved, reloaded and timed."""
        return student

    def cost(self, student: PreTrainedModel, length: int) -> Cost:
        """Return parameters and multiply-adds at ``length`` tokens; override for conditional compute."""
        from bench.cost import count

        return count(student, length)

    def load(self, folder: Path, task: Task) -> PreTrainedModel:
        """Reload a saved student; override for what ``from_pretrained`` cannot say."""
        from bench.tasks.heads import auto_model_class

        return auto_model_class(task.head).from_pretrained(folder)
