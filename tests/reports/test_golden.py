"""Every figure beside the picture of it that somebody looked at.

Where a figure is meant to change, look at the new picture, whose path the failure names, and copy it over the old one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.testing.compare import compare_images
from synthetic import ENVIRONMENT, campaign, cell, latency

from reports.figures import FIGURES
from reports.figures.style import FigureEntry, paper_style
from results.frame import Frame, from_records
from results.record import CellRecord, WorkloadRecord

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1.0  # root mean square over 0-255: less than one mark that moves
TASKS = ("cola", "mrpc", "reviews", "rte", "sst2")
GRID = [
    WorkloadRecord(name=f"{batch}x{length}", batch_size=batch, length=length)
    for batch in (1, 8, 32)
    for length in (16, 128)
]
DRAWN_ELSEWHERE = {"anatomy"}  # from records of its own, by tests/test_gallery.py


@pytest.fixture(scope="module")
def whole() -> Frame:
    """Return a frame that every figure finds something in: five tasks, a grid of timings, a knob that moves."""
    records = campaign(tasks=TASKS)
    experts = [
        cell(f"moebert[num_experts={n}]", "reviews", seed, method="moebert", config={"num_experts": n})
        for n in (2, 4, 8)
        for seed in (1, 2, 3)
    ]
    students = [one for one in records if isinstance(one, CellRecord) and one.label != "teacher"]
    grid = [latency(one, workload=work) for one in students if one.identity.seed == 1 for work in GRID]
    return from_records([*records, *experts, *grid], environments={ENVIRONMENT.id: ENVIRONMENT})


@pytest.mark.parametrize("entry", [e for e in FIGURES if e.name not in DRAWN_ELSEWHERE], ids=lambda e: e.name)
def test_a_figure_looks_as_it_did_when_somebody_looked(
    entry: FigureEntry, whole: Frame, tmp_path: Path
) -> None:
    drawn, golden = tmp_path / f"{entry.name}.png", GOLDEN / f"{entry.name}.png"
    with paper_style():
        figure = entry.draw(whole)
        assert figure is not None
        figure.savefig(drawn, dpi=60)
    assert golden.is_file(), f"look at {drawn}, then keep it as {golden}"
    difference = compare_images(str(golden), str(drawn), tol=TOLERANCE)
    assert difference is None, f"{difference}\nIf the change is meant: cp {drawn} {golden}"


def test_a_mark_elsewhere_is_found(whole: Frame, tmp_path: Path) -> None:
    (entry,) = [entry for entry in FIGURES if entry.name == "pareto"]
    drawn = tmp_path / "pareto.png"
    with paper_style():
        figure = entry.draw(whole)
        assert figure is not None
        figure.axes[0].collections[0].set_offsets([(0.2, 78)])
        figure.savefig(drawn, dpi=60)
    assert compare_images(str(GOLDEN / "pareto.png"), str(drawn), tol=TOLERANCE) is not None
