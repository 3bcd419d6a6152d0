"""Run all checks on one method or several."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bench import registry
from bench.contract.checks import CHECKS, check_configuration, check_literals, check_reload
from bench.contract.outcome import BrokenError, CheckResult, describe
from bench.contract.reload import reload_all
from bench.contract.sandbox import watch
from bench.contract.specimen import Specimen, begin, finish
from bench.method import Method, Skip
from bench.toys import HEADS

if TYPE_CHECKING:
    from bench.tasks.task import HeadName


@dataclass
class _Trial:
    """A method under test: its students by head, and the results so far."""

    plugin: type[Method]
    results: list[CheckResult] = field(default_factory=list)
    specimens: dict[str, Specimen] = field(default_factory=dict)

    def run(self, name: str, check: Callable[[], str], *, began: float | None = None) -> None:
        """Run a check that may have begun already, and keep its outcome; what it returns is a remark."""
        began = time.perf_counter() if began is None else began
        try:
            passed, detail = True, check()
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its failure, not ours
            passed, detail = False, describe(error)
        self.results.append(CheckResult(name, passed, detail, time.perf_counter() - began))

    def run_on_students(
        self, name: str, check: Callable[[Specimen], None], *, began: float | None = None
    ) -> None:
        """Run a check on the student of every head."""

        def on_all() -> str:
            if not self.specimens:
                raise BrokenError("not reached: there is no student")
            _raise_together({head: partial(check, specimen) for head, specimen in self.specimens.items()})
            return ""

        self.run(name, on_all, began=began)


def run_contract(method: str | type[Method], heads: Sequence[HeadName] = HEADS) -> list[CheckResult]:
    """Run every check on a method.

    Args:
        method: Name of a registered method, or its class.
        heads: Task heads to try it on.

    Raises:
        UserError: Where no method of that name is registered.
    """
    return run_contracts([method], heads)[0]


def run_contracts(
    methods: Iterable[str | type[Method]], heads: Sequence[HeadName] = HEADS
) -> list[list[CheckResult]]:
    """Run every check on several methods; one fresh process reloads the students of all."""
    with tempfile.TemporaryDirectory() as folder, _quiet_and_steady():
        trials = [_try(method, heads, Path(folder, str(index))) for index, method in enumerate(methods)]
        began = time.perf_counter()
        reload_all([specimen for trial in trials for specimen in trial.specimens.values()])
        for trial in trials:
            trial.run_on_students("reload", check_reload, began=began)
    return [trial.results for trial in trials]


def _try(method: str | type[Method], heads: Sequence[HeadName], folder: Path) -> _Trial:
    """Do all that this process can."""
    name, plugin = (method, registry.methods.get(method)) if isinstance(method, str) else (None, method)
    trial = _Trial(plugin)
    trial.run("literals", partial(check_literals, plugin, name))
    trial.run("configuration", partial(check_configuration, plugin))
    with watch(folder) as sandbox:
        trial.run("makes-a-student", partial(_make, trial, heads, folder))
        for check_name, check in CHECKS.items():
            trial.run_on_students(check_name, check)
    trial.run("writes-nothing-elsewhere", partial(_nothing, "wrote", sandbox.writes))
    trial.run("needs-no-network", partial(_nothing, "called", sandbox.calls))
    return trial


def _make(trial: _Trial, heads: Sequence[HeadName], folder: Path) -> str:
    """Make a student for each head; return which are left out."""
    left_out = []

    def make(head: HeadName) -> None:
        start = begin(trial.plugin, head)
        if isinstance(start, Skip):
            left_out.append(f"{head} left out: {start.reason}")
        else:
            trial.specimens[head] = finish(start, folder / head)

    _raise_together({head: partial(make, head) for head in heads})
    if not trial.specimens:
        raise BrokenError("; ".join(left_out))
    return "; ".join(left_out)


def _raise_together(tries: Mapping[str, Callable[[], None]]) -> None:
    problems = []
    for head, attempt in tries.items():
        try:
            attempt()
        except Exception as error:  # noqa: BLE001 - the other heads are tried all the same
            problems.append(f"{head}: {describe(error)}")
    if problems:
        raise BrokenError("; ".join(problems))


def _nothing(did: str, what: Sequence[str]) -> str:
    if what:
        raise BrokenError(f"{did} {', '.join(what[:5])}")
    return ""


@contextmanager
def _quiet_and_steady() -> Iterator[None]:
    """Hide progress bars; use one thread, since a product's last bit depends on their number; keep the generators."""
    from transformers.utils import logging as reports

    import_module("torch._dynamo")  # makes torch's cache folder where it belongs, before anything is watched
    threads, bars = torch.get_num_threads(), reports.is_progress_bar_enabled()
    torch.set_num_threads(1)
    reports.disable_progress_bar()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        if bars:
            reports.enable_progress_bar()
