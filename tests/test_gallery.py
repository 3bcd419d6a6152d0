"""What is committed as a report is what its records give, byte for byte."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import matplotlib
import pytest

from reports import write
from results.frame import load
from results.record import CellRecord
from results.store import RunFolder

ROOT = Path(__file__).parent.parent
CAMPAIGNS = sorted(path for path in (ROOT / "results" / "campaigns").glob("*") if path.is_dir())
TEX = sorted((ROOT / "reports" / "gallery").glob("*/tables/*.tex"))
# Of the same records every matplotlib gives the same bytes of these; of pictures and the page, the pinned one does.
TEXT = {".md", ".csv", ".tex"}


def relative(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def test_there_is_a_campaign():
    assert "quickstart" in {path.name for path in CAMPAIGNS}


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda path: path.name)
def test_every_committed_record_is_read_and_finished(campaign):
    folder = RunFolder(campaign)
    records = folder.records()
    assert len(records) == len(list((campaign / "records").iterdir()))
    assert {record.status for record in records} <= {"done", "skipped"}
    assert {record.environment for record in records} == set(folder.environments())
    for record in records:
        if isinstance(record, CellRecord) and record.status == "done" and record.identity.held_out is None:
            assert folder.predictions_file(record.id).exists()


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda path: path.name)
def test_the_gallery_is_what_the_records_give(campaign, tmp_path):
    write(load(campaign), tmp_path, campaign.name)
    committed = relative(ROOT / "reports" / "gallery" / campaign.name)
    drawn = relative(tmp_path)
    assert list(drawn) == list(committed)
    pinned = f"matplotlib=={matplotlib.__version__}" in (ROOT / "constraints.txt").read_text().splitlines()
    differing = [
        name
        for name in drawn
        if (pinned or Path(name).suffix in TEXT) and drawn[name].read_bytes() != committed[name].read_bytes()
    ]
    assert differing == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("file", TEX, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_every_committed_latex_file_compiles_by_itself(file, tmp_path):
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert "Overfull \\hbox" not in run.stdout, "the table does not fit its page"
