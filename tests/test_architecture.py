"""The arrows between the rooms point down only, and the house names no method where it must not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from bench.registry import methods

ROOT = Path(__file__).parent.parent
ROOMS = ("bench", "methods", "moebert", "results", "reports")
MAY_IMPORT = {
    "moebert": set(),
    "results": set(),
    "reports": {"results"},
    "bench": {"results"},
    "methods": {"bench", "moebert"},
}
OF_THE_HARNESS_METHODS_MAY_IMPORT = {
    "bench.method",
    "bench.errors",
    "bench.cost",
    "bench.tasks.task",
    "bench.latency.runtimes",  # the contract of a runtime: who adds a model may add how it is run
}
ABOVE_BOTH = ("bench/cli/", "bench/listing.py")


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down(room):
    assert modules(room)
    for file in modules(room):
        allowed = MAY_IMPORT[room] | {room}
        if file.relative_to(ROOT).as_posix().startswith(ABOVE_BOTH):
            allowed |= {"reports"}
        ours = {name for name in imported(file) if name.split(".")[0] in ROOMS}
        assert {name for name in ours if name.split(".")[0] not in allowed} == set(), file


def test_methods_know_the_contract_of_the_harness_and_nothing_else_of_it():
    for file in modules("methods"):
        harness = {name for name in imported(file) if name.split(".")[0] == "bench"}
        assert harness <= OF_THE_HARNESS_METHODS_MAY_IMPORT, file


def test_the_harness_and_the_reports_never_name_a_method():
    names = set(methods.names())
    for room in ("bench", "reports", "results"):
        for file in modules(room):
            text = file.read_text(encoding="utf-8")
            text = re.sub(
                r"^SHARED_PACKAGES = .*$", "", text, flags=re.MULTILINE
            )  # names a package, not a method
            strings = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
            assert names.isdisjoint(string for string in strings if isinstance(string, str)), file


def test_the_model_is_a_library_of_its_own():
    outside = {"torch", "transformers", "moebert", "triton"}
    standard = __import__("sys").stdlib_module_names
    for file in modules("moebert"):
        assert {name.split(".")[0] for name in imported(file)} - standard <= outside, file


def test_files_are_small():
    long = {
        str(file): n
        for room in ROOMS
        for file in modules(room)
        if (n := len(file.read_text().splitlines())) > 400
    }
    assert long == {}
