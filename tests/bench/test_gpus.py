from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bench.errors import UserError
from bench.executors import processes
from bench.executors.gpus import places
from bench.executors.processes import Workers
from bench.matrix import ExecutorPlan


@pytest.fixture
def three_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({}, ["0", "1", "2"]),
        ({"cells_per_gpu": 2}, ["0", "1", "2", "0", "1", "2"]),
        ({"devices": [2, 0]}, ["2", "0"]),
        ({"devices": [1], "cells_per_gpu": 2}, ["1", "1"]),
    ],
)
def test_workers_spread_over_the_gpus_before_they_share_one(plan, expected):
    assert places(ExecutorPlan(**plan)) == expected


@pytest.mark.usefixtures("three_gpus")
def test_gpus_are_counted_among_those_that_are_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8932f937,7")
    assert places(ExecutorPlan(devices=(1, 2))) == ["GPU-8932f937", "7"]


@pytest.mark.usefixtures("three_gpus")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(UserError, match="no GPU 3; this machine shows 3"):
        places(ExecutorPlan(devices=(0, 3)))


def test_without_a_gpu_there_are_no_places(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert places(ExecutorPlan(cells_per_gpu=4)) == []


@dataclass(frozen=True)
class Cell:
    """A cell that says where it was made once as many are under way as have room."""

    cell_id: str
    folder: Path
    together: int
    share: float = 0.0

    @property
    def name(self) -> str:
        return self.cell_id


@dataclass(frozen=True)
class Made:
    id: str
    place: str
    fits: bool
    status: str = "done"


def make(cell: Cell, _listener) -> Made:
    (cell.folder / cell.cell_id).touch()
    while len(list(cell.folder.iterdir())) < cell.together:
        pass
    fits = True
    if cell.share:
        total = torch.cuda.get_device_properties(0).total_memory
        try:
            torch.empty(int(cell.share * total), dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            fits = False
    return Made(cell.cell_id, os.environ.get("CUDA_VISIBLE_DEVICES", ""), fits)


def made(monkeypatch, cells, places, workers=None):
    monkeypatch.setattr(processes, "run_watched", make)
    with Workers(len(cells), workers, 1, lambda event: None, places) as pool:
        return list(pool.make(cells))


def test_every_worker_has_a_place_of_its_own(monkeypatch, tmp_path):
    cells = [Cell(name, tmp_path, together=2) for name in "abcd"]
    found = made(monkeypatch, cells, ["0", "GPU-1"])
    assert set(Counter(cell.place for cell in found)) == {"0", "GPU-1"}
    assert sorted(cell.id for cell in found) == list("abcd")


def test_never_more_workers_than_places(monkeypatch, tmp_path):
    found = made(monkeypatch, [Cell(name, tmp_path, together=1) for name in "abc"], ["4"], workers=3)
    assert [cell.place for cell in found] == ["4"] * 3


def test_a_batch_larger_than_expected_has_workers_enough(monkeypatch, tmp_path):
    """Each of its cells waits for the other."""
    monkeypatch.setattr(processes, "run_watched", make)
    with Workers(1, 2, 1, lambda event: None) as pool:
        assert [cell.id for cell in pool.make([Cell("a", tmp_path, together=1)])] == ["a"]
        found = pool.make([Cell("b", tmp_path, together=3), Cell("c", tmp_path, together=3)])
        assert {cell.id for cell in found} == {"b", "c"}


@pytest.mark.gpu
@pytest.mark.parametrize(("share", "fits"), [(0.1, True), (0.14, False)])
def test_a_cell_has_its_part_of_the_memory_whatever_is_free(monkeypatch, tmp_path, share, fits):
    """Two cells where eight could be, so that the test passes beside others on the same GPU."""
    found = made(monkeypatch, [Cell(name, tmp_path, 1, share) for name in "ab"], ["0"] * 8)
    assert [cell.fits for cell in found] == [fits, fits]
