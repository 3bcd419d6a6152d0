"""A tokenised split and a tiny BERT for tests of the loop."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture
def tiny_rows(tiny_checkpoint: Path, tiny_task: Path):
    """The tiny task's training rows as tokens."""
    from bench import checkpoints
    from bench.data import encode
    from bench.sources import load_rows
    from bench.tasks import catalog

    task = catalog.find(str(tiny_task))
    rows = load_rows(task, data=None, limit=None)
    tokenizer = checkpoints.load_tokenizer(checkpoints.resolve(str(tiny_checkpoint)))
    return encode(task, rows.splits["train"], tokenizer, cache=None, key="train", training=True)


@pytest.fixture
def tiny_model(tiny_checkpoint: Path, tiny_task: Path):
    """A fresh classifier on the tiny checkpoint, the same at every call."""
    from bench import checkpoints
    from bench.tasks import catalog

    task = catalog.find(str(tiny_task))
    return lambda: checkpoints.load_model(checkpoints.resolve(str(tiny_checkpoint)), task, seed=0)


@pytest.fixture(scope="session")
def long_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with 512 positions, as GLUE's longest tasks need."""
    import shutil

    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("checkpoint") / "long-bert"
    shutil.copytree(tiny_checkpoint, folder)
    config = BertConfig.from_pretrained(tiny_checkpoint, max_position_embeddings=512)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def moebench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command; give back its exit code, standard output and standard error."""
    from bench import cli

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moebench", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
