"""A full disk is refused before anything is written."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from bench.errors import UserError
from bench.matrix import load_matrix
from bench.run import run
from bench.space import require_space


def test_a_folder_that_does_not_exist_yet_is_on_its_parents_disk(tmp_path):
    require_space(tmp_path / "a" / "b", 1, "a file")
    assert not (tmp_path / "a").exists()


def test_too_little_room_is_said_with_what_is_free_and_what_is_needed(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(
        UserError, match=rf"{tmp_path}: [\d,]+ MB free, 3 checkpoints need at least [\d,]+ MB"
    ):
        require_space(tmp_path, 2 * free, "3 checkpoints")


@pytest.mark.usefixtures("cache")
def test_a_run_on_a_full_disk_writes_nothing(tiny_matrix, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="the checkpoints of 2 cells need at least"):
        run(load_matrix(str(tiny_matrix)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
