"""The matrix file: which methods run on which tasks at which seeds, with what effort.

A preset or a YAML file is read with the safe loader into a validated ``Matrix``; ``bench.plans`` multiplies it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bench.errors import UserError, unknown
from bench.validation import validated
from results.record import Budget, Dtype, HeldOut

_CHOICE = re.compile(r"^(?P<name>[^\[\]]+?)(\[(?P<options>.*)\])?$", re.DOTALL)
_EXPONENT = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")


def parse_choice(text: str) -> dict[str, Any]:
    """Read ``name[key=value,…]`` into ``{name: {key: value}}``; values are YAML scalars.

    Raises:
        UserError: Where the text has another shape.
    """
    match = _CHOICE.match(text.strip())
    if match is None:
        raise UserError(f"cannot read {text!r}; write name or name[key=value,key=value]")
    options: dict[str, Any] = {}
    for part in filter(None, (match["options"] or "").split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UserError(f"cannot read {part!r} in {text!r}; write name[key=value,key=value]")
        options[key.strip()] = _scalar(value)
    return {match["name"].strip(): options}


def _scalar(text: str) -> Any:
    """Read a YAML scalar, and 1e-4 as the number that people mean and YAML 1.1 does not see."""
    value = yaml.safe_load(text)
    return float(value) if isinstance(value, str) and _EXPONENT.match(value) else value


def _as_choice(value: Any) -> Any:
    """Accept ``name``, ``name[key=value]`` and the mapping ``{name: {key: value}}``."""
    if isinstance(value, str):
        value = parse_choice(value)
    if isinstance(value, Mapping) and set(value) != {"name", "options"}:
        if len(value) != 1:
            raise ValueError("write one name, or one name with a mapping of its options")
        ((name, options),) = value.items()
        return {"name": name, "options": options or {}}
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Choice(_Strict):
    """A method or a task by name, with options."""

    name: str
    options: dict[str, Any] = {}

    def __str__(self) -> str:
        """Write it as the command line takes it."""
        if not self.options:
            return self.name
        return f"{self.name}[{','.join(f'{key}={value}' for key, value in self.options.items())}]"


Choices = Annotated[tuple[Annotated[Choice, BeforeValidator(_as_choice)], ...], Field(min_length=1)]


class LatencyPlan(_Strict):
    """What is timed after training.

    Attributes:
        tasks: Whose checkpoints are timed, by name; none means all.
        methods: Whose checkpoints are timed beside the teacher's, by name or label; none means all.
        workloads: ``batch x length`` as in ``8x128``, or ``8xreal`` for rows at their real lengths.
        runtimes: Names of registered runtimes.
        seeds: Whose checkpoints are timed; none means the first seed of the matrix.
        repeats: Fresh processes.
        rounds: Timed calls of each model, workload and process.
        warmup: Calls before them, kept in the record and not counted.
        threads: Of the CPU.
        dtype: Of weights and activations; ``tf32`` is fp32 whose products may round their operands.
        workloads_at_once: Workloads that share a process, and are lost together where the run is killed.
        device: ``auto`` is the GPU where there is one.
        memory: Whether peak memory is read too, in one more process for every model.
    """

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ("1x32", "8x32")
    runtimes: tuple[str, ...] = ("eager",)
    seeds: tuple[int, ...] = ()
    repeats: int = Field(default=3, ge=1)
    rounds: int = Field(default=20, ge=2)
    warmup: int = Field(default=3, ge=0)
    threads: int = Field(default=1, ge=1)
    dtype: Dtype = "fp32"
    workloads_at_once: int = Field(default=4, ge=1)
    device: Literal["auto", "cpu"] = "auto"
    memory: bool = True


class ExecutorPlan(_Strict):
    """How the cells are worked through.

    Attributes:
        name: ``serial`` or ``processes``.
        workers: Processes side by side; None means one a core, or ``cells_per_gpu`` on every GPU.
        threads: Torch threads of each cell. One is the default: on a busy machine two can be 30 times slower.
        devices: GPUs of the processes, counted from 0; none named means all. A serial run takes the first.
        cells_per_gpu: Processes that share a GPU and its memory, in equal parts.
        mps: Whether they run side by side through NVIDIA's multi-process service, not in turns. It is faster, but a
            fault on the GPU stops all that share it; the cells under way are then made again, one at a time.
    """

    name: Literal["serial", "processes"] = "serial"
    workers: int | None = Field(default=None, ge=1)
    threads: int = Field(default=1, ge=1)
    devices: tuple[Annotated[int, Field(ge=0)], ...] = ()
    cells_per_gpu: int = Field(default=1, ge=1)
    mps: bool = False


class TuningPlan(_Strict):
    """Equal tuning: as many tries for every method, and for the teacher, on rows held out from the training rows.

    Attributes:
        tries: Of every method and of the teacher's fine-tuning; a grid of fewer combinations is tried whole.
        rows: Share of the training rows that is held out.
        most_rows: At most this many of them.
        max_steps: At most this many steps a try; None: as many as the budget has.
        seed: Of the tries, and of which rows are held out.
        learning_rates: For the teacher, and for methods whose grid has none of its own; the best guess first.
        tasks: Name of a task, or a kind of task (``classification``, ``regression``, ``extractive-qa``) -> the task
            whose tries decide for it. A task that is not there has tries of its own.
    """

    tries: int = Field(default=4, ge=1)
    rows: float = Field(default=0.1, gt=0, lt=1)
    most_rows: int = Field(default=5000, ge=1)
    max_steps: int | None = Field(default=2000, ge=1)
    seed: int = Field(default=0, ge=0)
    learning_rates: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)
    ] = (
        *(5e-5, 3e-5),
        *(1e-4, 2e-5),
    )
    tasks: dict[str, Annotated[Choice, BeforeValidator(_as_choice)]] = {}

    @property
    def held_out(self) -> HeldOut:
        """What a try is scored on."""
        return HeldOut(share=self.rows, most=self.most_rows, seed=self.seed)


class TaskSettings(_Strict):
    """What is different for one task.

    Attributes:
        budget: Keys of the budget and their values.
        methods: Name of a method -> knobs, for those that the list of methods does not set.
        seeds: Of the matrix's seeds only these; none means all.
    """

    budget: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()


def _as_list(value: Any) -> Any:
    """Accept one plan without its list, and null for none."""
    return [] if value is None else [value] if isinstance(value, Mapping | LatencyPlan) else value


class Matrix(_Strict):
    """A validated matrix file.

    Attributes:
        name: Of the run; its folder is ``runs/<name>``.
        summary: One line.
        teacher: ``embedded``, a folder, or a hub id with its revision, ``bert-base-uncased@<revision>``.
        tasks: Tasks by name, or the path of a task file.
        methods: Methods by name; options are their configuration, and ``learning_rate``.
        seeds: Each makes a teacher and a student of every method.
        budget: Training effort of every student.
        teacher_budget: Training effort of a teacher; None means the students'.
        by_task: Name of a task -> its own budget, knobs and seeds.
        tuning: How knobs are chosen before the cells are made; None: nothing is tuned.
        precision: ``auto`` is bf16 autocast where the GPU has it, else fp32.
        calibration_rows: At most this many training rows for ``compress``; None means all.
        limit: At most this many rows of each split: a smoke run, marked as such.
        data: Folder of Parquet files for tasks from a directory.
        latency: What is timed, one plan or a list of them; none means nothing.
        executor: How the cells are worked through.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: str = ""
    teacher: str = "embedded"
    tasks: Choices
    methods: Choices
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    budget: Budget = Budget()
    teacher_budget: Budget | None = None
    by_task: dict[str, TaskSettings] = {}
    tuning: TuningPlan | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    calibration_rows: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    data: str | None = None
    latency: Annotated[tuple[LatencyPlan, ...], BeforeValidator(_as_list)] = (LatencyPlan(),)
    executor: ExecutorPlan = ExecutorPlan()


def presets() -> dict[str, Path]:
    """Return the presets that ship with the suite, by name."""
    folder = Path(str(files("bench") / "presets"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_matrix(name_or_file: str, overrides: Mapping[str, Any] | None = None) -> Matrix:
    """Read a preset or a YAML file; overrides replace its top-level keys.

    Raises:
        UserError: Naming the key, what was possible and the nearest match.
    """
    file = Path(name_or_file)
    if file.suffix not in {".yaml", ".yml"}:
        known = presets()
        if name_or_file not in known:
            raise unknown("preset", name_or_file, known)
        file = known[name_or_file]
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{file}: no such file; `moebench ls presets` lists what ships with the suite"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise UserError(f"{file}: a matrix is a mapping with at least tasks and methods")
    document.setdefault("name", file.stem)
    return validated(Matrix, {**document, **(overrides or {})}, where=str(file))


def matrix_yaml(matrix: Matrix) -> str:
    """Write a matrix as the file that would give it again."""
    return yaml.safe_dump(matrix.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
