"""What `pip install .` gives: every file that is needed outside the checkout, and none that is not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    script = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_data_files_and_no_campaigns(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "bench/presets/quickstart.yaml",
        "bench/py.typed",
        "moebert/py.typed",
        "results/published/references.bib",
        "methods/moebert.py",
    ):
        assert needed in names
    assert any(name.startswith("reports/templates/") for name in names)
    assert not any(
        name.startswith(("tests/", "results/campaigns", "reports/gallery", "benchmarks/")) for name in names
    )
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {
        "bench",
        "methods",
        "moebert",
        "results",
        "reports",
    }


def test_the_command_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "MOEBENCH_CACHE": str(tmp_path / "cache")}
    script = "import sys, bench.cli; assert bench.__file__.startswith(sys.argv.pop(1)); bench.cli.main()"
    for words in (["ls", "presets"], ["ls", "methods"], ["show", "quickstart"], ["show", "finetune"]):
        done = subprocess.run(
            [sys.executable, "-P", "-c", script, str(site), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "finetune" in done.stdout or "quickstart" in done.stdout
