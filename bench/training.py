"""The one loop: it trains teachers and students alike.

A step is: draw a batch from the order that (task, seed) alone decides, compute the objective's terms, minimise their
weighted sum. Stages share one budget of steps and one stream of batches; each has a fresh optimiser and schedule
(linear warm-up, linear decay to zero). On a GPU each length of batch has its step as a CUDA graph. Nothing here names a
method.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.batching import Batch, training_batches
from bench.captured import CapturedStep
from bench.checkpointing import Checkpointer, Progress, restore_training_state, training_state
from bench.errors import UserError
from bench.memory import peak_memory_bytes, reset_peak_memory
from bench.method import Objective, Stage
from bench.seeds import derive
from bench.steps import LOSS, EagerStep, trained_parameters
from results.record import Budget, CurvePoint, StageRecord, TrainingRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.encoded import Encoded

CURVE_POINTS = 50  # a stage; a GPU is asked as often whether the loss is still finite
REFRESHES = 100  # a stage

Report = Callable[[str, int, int, float], None]
"""Called with stage, step, steps of the whole training, and the latest mean loss."""


class NonFiniteLossError(Exception):
    """The loss became NaN or infinite.

    Attributes:
        step: First such step of the training, from 0.
        row_ids: Rows of that step's batch.
    """

    def __init__(self, step: int, row_ids: list[str]) -> None:
        super().__init__(
            f"the loss is not finite at step {step}; rows of that batch: {', '.join(row_ids[:5])}, …"
        )
        self.step = step
        self.row_ids = row_ids


@dataclass(frozen=True)
class Settings:
    """What the harness decides for every method.

    Attributes:
        budget: Training effort.
        task: Name of the task; with ``seed`` it decides the order of the rows.
        seed: Of this cell.
        precision: ``bf16`` runs forward passes under autocast.
        device: Where everything lives.
    """

    budget: Budget
    task: str
    seed: int
    precision: str
    device: torch.device


@dataclass
class _Meter:
    """Sums of the loss and its terms since the last point of the curve, kept on the device."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.steps += 1

    def point(self, step: int, examples: int) -> CurvePoint:
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        self.sums, self.steps = {}, 0
        return CurvePoint(step=step, examples=examples, loss=means.pop(LOSS), terms=means)


def total_steps(rows: int, budget: Budget) -> int:
    """Return the steps that a budget buys on a training split of ``rows`` rows."""
    steps = max(1, round(budget.epochs * rows / min(budget.batch_size, rows)))
    return min(steps, budget.max_steps or steps)


def split_steps(total: int, shares: Sequence[float]) -> list[int]:
    """Divide a budget of steps between stages, each at least one, so that they sum to the total.

    Raises:
        UserError: Where the shares do not sum to 1 or there are more stages than steps.
    """
    if any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"the shares of the stages must be positive and sum to 1, not {list(shares)}")
    if total < len(shares):
        raise UserError(
            f"{total} steps are too few for {len(shares)} stages; raise the budget's epochs or max_steps"
        )
    ends = [round(total * sum(shares[: index + 1])) for index in range(len(shares))]
    ends = [max(end, index + 1) for index, end in enumerate(ends)]
    ends = [min(end, total - (len(shares) - 1 - index)) for index, end in enumerate(ends)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def train(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    stages: Sequence[Stage],
    rows: Encoded,
    settings: Settings,
    *,
    checkpointer: Checkpointer | None = None,
    report: Report | None = None,
) -> TrainingRecord:
    """Train a student through its stages and say how it went.

    Args:
        student: In fp32, on the device; trained in place.
        teacher: Kept in eval mode, whatever a method's ``train()`` call does.
        stages: The method's; their shares divide the budget's steps.
        rows: The training split, on the device.
        settings: What the harness decides.
        checkpointer: Where to keep the state of a long training, so that a killed one goes on where it was.
        report: Told of the progress.

    Raises:
        NonFiniteLossError: With the step and the rows.
        UserError: Where the stages cannot share the budget.
    """
    torch.manual_seed(derive(settings.seed, "training", settings.task))
    reset_peak_memory(settings.device)
    loop = _Loop(student, teacher, list(stages), rows, settings, checkpointer, report)
    loop.run()
    if checkpointer:
        checkpointer.clear()
    return TrainingRecord(
        learning_rate=settings.budget.learning_rate,
        steps=loop.progress.step,
        examples=loop.progress.step * loop.batch_size,
        order_sha256=loop.progress.order_sha256,
        seconds=loop.progress.seconds,
        peak_memory_bytes=peak_memory_bytes(settings.device),
        micro_batch_size=loop.progress.micro_batch_size,
        execution="captured" if loop.executions == {"captured"} else "eager",
        stages=loop.progress.stages,
    )


class _Loop:
    """State of one training; ``run`` reads from top to bottom."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None,
        stages: list[Stage],
        rows: Encoded,
        settings: Settings,
        checkpointer: Checkpointer | None,
        report: Report | None,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.stages = stages
        self.rows = rows
        self.settings = settings
        self.checkpointer = checkpointer
        self.report = report
        self.total = total_steps(len(rows.lengths), settings.budget)
        self.plan = split_steps(self.total, [stage.share for stage in stages])
        self.batch_size = min(settings.budget.batch_size, len(rows.lengths))
        self.progress = Progress(micro_batch_size=self.batch_size)
        self.executions: set[str] = set()  # of the stages
        self.meter = _Meter()
        self.unchecked: list[tuple[int, Batch, Tensor]] = []  # steps whose loss nobody has looked at yet
        self.clock = time.perf_counter()

    def run(self) -> None:
        saved = self.checkpointer.load() if self.checkpointer else None
        if saved:
            self.progress = saved[0]
        order = training_batches(
            self.rows.lengths,
            batch_size=self.batch_size,
            seed=derive(self.settings.seed, "order", self.settings.task),
        )
        batches = islice(order, self.progress.step, None)
        for index in range(self.progress.stage, len(self.stages)):
            stage, steps = self.stages[index], self.plan[index]
            step = self._begin(stage, index, saved[1] if saved and index == saved[0].stage else None)
            while self.progress.stage_step < steps:
                self._take(step, next(batches), steps)
                self.progress.stage_step += 1
                if self.checkpointer and self.checkpointer.due():
                    self._save(self.checkpointer, step)
            self.progress.stage_step = 0
            self.executions.add(step.execution)

    def _begin(self, stage: Stage, index: int, saved: dict[str, Tensor] | None) -> EagerStep:
        """Make the stage's optimiser; put a killed training's state back where there is one."""
        objective = stage.objective.to(self.settings.device)
        make: Callable[..., EagerStep] = EagerStep
        if self.settings.device.type == "cuda":
            models = [model for model in (self.student, self.teacher) if model is not None]
            make = functools.partial(CapturedStep, models)
        step = make(
            objective,
            trained_parameters(self.student, objective, self.teacher),
            self.rows,
            self.settings.budget,
            self.settings.precision,
            self.progress.micro_batch_size,
        )
        if saved is not None:
            sums = restore_training_state(saved, self.student, self.teacher, objective, step.optimizer)
            self.meter = _Meter(sums, self.progress.meter_steps)
        else:
            self.progress.stage = index
            self.progress.stages.append(
                StageRecord(name=stage.name, steps=self.plan[index], seconds=0.0, curve=[])
            )
        self._set_modes(objective)
        return step

    def _set_modes(self, objective: Objective) -> None:
        objective.train()
        self.student.train()
        if self.teacher is not None:
            self.teacher.eval()

    def _take(self, step: EagerStep, batch: Batch, steps: int) -> None:
        """Take one step of a stage of ``steps`` and keep the books."""
        done, objective = self.progress.stage_step, step.objective
        objective.progress.fill_(done / max(1, steps - 1))
        step.learning_rate.fill_(
            self.settings.budget.learning_rate * schedule(done, steps, self.settings.budget.warmup)
        )
        if done % max(1, steps // REFRESHES) == 0:
            step.refresh()
            self._set_modes(objective)
        values = step(batch)
        self.meter.add(values)
        self.unchecked.append((self.progress.step, batch, torch.isfinite(values[LOSS])))
        self._account(step, batch)
        if (done + 1) % max(1, steps // CURVE_POINTS) == 0 or done + 1 == steps:
            self._add_point(steps)
        elif self.settings.device.type == "cpu":
            self._check_finite()

    def _account(self, step: EagerStep, batch: Batch) -> None:
        progress, now = self.progress, time.perf_counter()
        progress.step += 1
        progress.micro_batch_size = step.micro_batch_size
        chained = progress.order_sha256.encode() + batch.indices.astype("<i8").tobytes()
        progress.order_sha256 = hashlib.sha256(chained).hexdigest()
        progress.seconds += now - self.clock
        stage = progress.stages[-1]
        progress.stages[-1] = stage.model_copy(update={"seconds": stage.seconds + now - self.clock})
        self.clock = now

    def _add_point(self, steps: int) -> None:
        self._check_finite()
        stage = self.progress.stages[-1]
        point = self.meter.point(self.progress.step, self.progress.step * self.batch_size)
        self.progress.stages[-1] = stage.model_copy(update={"curve": [*stage.curve, point]})
        if self.report:
            self.report(stage.name, self.progress.step, self.total, point.loss)

    def _check_finite(self) -> None:
        """Look at the losses of the steps since the last look; on a GPU this waits for them."""
        unchecked, self.unchecked = self.unchecked, []
        for step, batch, finite in unchecked:
            if not finite:
                raise NonFiniteLossError(step, self.rows.row_ids(batch.indices))

    def _save(self, checkpointer: Checkpointer, step: EagerStep) -> None:
        self._check_finite()
        self.progress.meter_steps = self.meter.steps
        tensors = training_state(self.student, self.teacher, step.objective, step.optimizer, self.meter.sums)
        checkpointer.save(self.progress, tensors)
        self.clock = time.perf_counter()


def schedule(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the learning rate: linear warm-up, then linear decay towards zero."""
    warm = round(steps * warmup)
    if step < warm:
        return (step + 1) / warm
    return (steps - step) / max(1, steps - warm)
