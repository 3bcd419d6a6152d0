"""The cells of a matrix before anything is made: tasks times seeds times methods, each with its knobs and budget."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from bench.errors import UserError, unknown
from bench.matrix import Choice, Matrix
from bench.registry import methods as method_registry
from bench.tasks import catalog
from bench.tasks.task import HeadName, Task
from bench.validation import validated
from results.record import Budget

TEACHER = "teacher"
LEARNING_RATE = "learning_rate"  # the one knob that is the harness's own


@dataclass(frozen=True)
class CellPlan:
    """One student to be made; its id is known once its teacher is.

    Attributes:
        config: Validated configuration of the method, defaults included.
        budget: Training effort, with the method's own learning rate where it has one.
        label: What tables call it.
        fixed: Knobs that the matrix sets, which tuning leaves alone.
    """

    task: Task
    method: str
    config: dict[str, Any]
    budget: Budget
    label: str
    seed: int
    fixed: frozenset[str] = frozenset()


def cells(matrix: Matrix) -> list[CellPlan]:
    """Multiply a matrix out: tasks, then seeds, then methods, in the order they are listed.

    Raises:
        UserError: For an unknown task, method or knob, or the same student listed twice.
    """
    chosen = [find_task(choice) for choice in matrix.tasks]
    for name, count in Counter(task.name for task in chosen).items():
        if count > 1:
            raise UserError(
                f"task {name!r} is listed {count} times; give its variants task files of their own"
            )
    _refuse_strangers(matrix)
    at_any_seed = [[_plan(matrix, choice, task, 0) for choice in matrix.methods] for task in chosen]
    plans = [
        replace(plan, seed=seed)
        for listed in at_any_seed
        for seed in _seeds(matrix, listed[0].task.name)
        for plan in listed
    ]
    _refuse_repeats(plans)
    return plans


def tuned_cells(matrix: Matrix) -> list[CellPlan]:
    """Return one plan for every task that is tuned on and every method, at the seed of the tries."""
    if matrix.tuning is None:
        return []
    tasks = {task.name: task for task in (tuned_on(matrix, find_task(choice)) for choice in matrix.tasks)}
    return [
        _plan(matrix, choice, task, matrix.tuning.seed)
        for task in tasks.values()
        for choice in matrix.methods
    ]


def tuned_on(matrix: Matrix, task: Task) -> Task:
    """Return the task whose tries decide for a task: one of the matrix's own where it has that name.

    Raises:
        UserError: Where the tuning's ``tasks`` name what is neither a task nor a kind.
    """
    chosen = matrix.tuning.tasks if matrix.tuning else {}
    possible = [*get_args(HeadName), *_task_names(matrix)]
    for name in chosen:
        if name not in possible:
            raise unknown("task or kind", name, possible, where="tuning.tasks")
    choice = chosen.get(task.name, chosen.get(task.head))
    if choice is None:
        return task
    own = {find_task(listed).name: listed for listed in matrix.tasks}
    return find_task(choice if choice.options else own.get(choice.name, choice))


def teacher_plan(matrix: Matrix, task: Task, seed: int) -> CellPlan:
    """Plan a teacher: the checkpoint itself, trained on labels."""
    budget = matrix.teacher_budget or _budget(matrix, task.name)
    return CellPlan(task, TEACHER, {}, budget, TEACHER, seed)


def one_each(plans: Sequence[CellPlan]) -> list[CellPlan]:
    """Return the first plan of each task and seed: those need a teacher."""
    return list({(plan.task.name, plan.seed): plan for plan in reversed(plans)}.values())[::-1]


def with_knobs(plan: CellPlan, knobs: Mapping[str, Any], max_steps: int | None = None) -> CellPlan:
    """Return a plan with other knobs, ``learning_rate`` among them, and at most ``max_steps`` steps."""
    budget = plan.budget.model_copy(
        update={
            "learning_rate": knobs.get(LEARNING_RATE, plan.budget.learning_rate),
            "max_steps": min(filter(None, (plan.budget.max_steps, max_steps)), default=None),
        }
    )
    options = plan.config | {key: value for key, value in knobs.items() if key != LEARNING_RATE}
    if options != plan.config:
        options, _ = configure(Choice(name=plan.method, options=options))
    return replace(plan, config=options, budget=budget)


def _plan(matrix: Matrix, choice: Choice, task: Task, seed: int) -> CellPlan:
    """Plan a method on a task: the list of methods says most, then the task's own settings, then the defaults."""
    own = matrix.by_task[task.name].methods.get(choice.name, {}) if task.name in matrix.by_task else {}
    options = own | choice.options
    config, rate = configure(Choice(name=choice.name, options=options))
    budget = _budget(matrix, task.name)
    if rate is not None:
        budget = budget.model_copy(update={LEARNING_RATE: rate})
    listed = sum(other.name == choice.name for other in matrix.methods)
    label = str(choice) if listed > 1 else choice.name
    return CellPlan(task, choice.name, config, budget, label, seed, frozenset(options))


def _budget(matrix: Matrix, task: str) -> Budget:
    """Return the students' budget on a task."""
    if task not in matrix.by_task:
        return matrix.budget
    values = matrix.budget.model_dump() | matrix.by_task[task].budget
    return validated(Budget, values, where=f"by_task.{task}.budget")


def _seeds(matrix: Matrix, task: str) -> list[int]:
    own = matrix.by_task[task].seeds if task in matrix.by_task else ()
    return [seed for seed in matrix.seeds if not own or seed in own]


def _task_names(matrix: Matrix) -> list[str]:
    return list(dict.fromkeys([*(find_task(choice).name for choice in matrix.tasks), *catalog.names()]))


def _refuse_strangers(matrix: Matrix) -> None:
    """Refuse settings for what is neither a task nor a method: a typing error would go unseen."""
    for task, settings in matrix.by_task.items():
        known = _task_names(matrix)
        if task not in known:
            raise unknown("task", task, known, where="by_task")
        _budget(matrix, task)
        for method, options in settings.methods.items():
            configure(Choice(name=method, options=options))


def find_task(choice: Choice) -> Task:
    """Return the task of a choice, its options applied."""
    return catalog.find(choice.name, {key: str(value) for key, value in choice.options.items()})


def configure(choice: Choice) -> tuple[dict[str, Any], float | None]:
    """Validate the options of a method; return its full configuration and its own learning rate, if any.

    Raises:
        UserError: For an unknown method or knob, or a value out of range.
    """
    method = method_registry.get(choice.name)
    options = dict(choice.options)
    rate = options.pop(LEARNING_RATE, None)
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise UserError(f"method {choice.name!r}: learning_rate must be a positive number (got {rate!r})")
    config = validated(method.Config, options, where=f"method {choice.name!r}")
    return config.model_dump(mode="json"), rate


def _refuse_repeats(plans: list[CellPlan]) -> None:
    seen: set[str] = set()
    for plan in plans:
        key = repr((plan.task.name, plan.task.splits, plan.seed, plan.method, plan.config, plan.budget))
        if key in seen:
            raise UserError(f"{plan.label} on {plan.task.name} at seed {plan.seed} is listed twice")
        seen.add(key)
