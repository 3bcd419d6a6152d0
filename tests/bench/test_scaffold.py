from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.scaffold import scaffold


def test_the_package_names_its_method_everywhere(tmp_path: Path) -> None:
    written = scaffold("two-stage-7", tmp_path / "new")
    package = tmp_path / "new" / "two-stage-7"
    assert sorted(file.name for file in package.iterdir()) == sorted(file.name for file in written)
    assert {file.name for file in written} == {
        "pyproject.toml",
        "README.md",
        "two_stage_7.py",
        "test_two_stage_7.py",
    }
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"moebench.methods": {"two-stage-7": "two_stage_7:TwoStage7"}}
    for file in written:
        assert "$" not in file.read_text()


def test_the_method_fits_on_a_screen(tmp_path: Path) -> None:
    scaffold("my-method", tmp_path)
    source = (tmp_path / "my-method" / "my_method.py").read_text()
    lines = [line for line in source.splitlines() if line.strip()]
    assert len(lines) < 45
    classes = [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    assert classes == ["Config", "MyMethod"]


@pytest.mark.parametrize("name", ["My-Method", "my_method", "-x", "x-", "7x", "a b", "../x", ""])
def test_what_cannot_be_a_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a method: use lower-case words"):
        scaffold(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["class", "json", "torch", "methods"])
def test_a_module_that_python_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"Python has a module '{name}'"):
        scaffold(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'tinybert' is there already, in package moebert-bench"):
        scaffold("tinybert", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    scaffold("my-method", tmp_path)
    method = tmp_path / "my-method" / "my_method.py"
    method.write_text("mine")
    with pytest.raises(UserError, match="there already; nothing was written"):
        scaffold("my-method", tmp_path)
    assert method.read_text() == "mine"
