"""Methods of other packages, installed by pip, run and are checked like ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import registry
from bench.contract import run_contracts
from bench.matrix import load_matrix
from bench.run import run
from bench.scaffold import scaffold
from reports import comparison_table
from results.frame import load

PATIENT = Path(__file__).parent / "moebench-patient"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the plugin and a freshly scaffolded package into a folder of their own."""
    folder = tmp_path_factory.mktemp("site")
    product = tmp_path_factory.mktemp("product")
    scaffold("fresh-method", product)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*pip, "--target", folder, PATIENT, product / "fresh-method"], check=True)
    return folder


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)


def test_entry_points_are_enough_to_be_known() -> None:
    assert {"patient", "fresh-method"} <= set(registry.methods.names())
    assert registry.distribution_of(registry.methods.entry("patient")) == "moebench-patient"
    assert registry.methods.literals("patient")["paper"] == "pkd2019"
    assert registry.methods.literals("fresh-method")["name"] == "fresh-method"


def test_they_keep_the_contract() -> None:
    for results in run_contracts(["patient", "fresh-method"]):
        assert [result for result in results if not result.passed] == []


def test_a_plugin_runs_in_a_matrix_and_appears_in_the_table(tiny_matrix: Path, tmp_path: Path) -> None:
    matrix = load_matrix(str(tiny_matrix), {"methods": ["finetune", "patient[alpha=0.7]", "fresh-method"]})
    outcome = run(matrix, tmp_path / "run")
    assert outcome.failures == []
    table = comparison_table(load(tmp_path / "run")).to_string()
    for name in ("finetune", "patient", "fresh-method"):
        assert name in table


@pytest.mark.slow
def test_the_scaffolded_test_passes(tmp_path: Path) -> None:
    scaffold("scaffolded", tmp_path)
    subprocess.run([sys.executable, "-m", "pytest", "-q", tmp_path / "scaffolded"], check=True, cwd=tmp_path)
