"""What every test stands on: one thread, no network, and a tiny matrix on real files."""

from __future__ import annotations

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import json
from pathlib import Path

import pytest
import yaml

GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")
FILLERS = ("film", "plot", "cast", "scene", "story", "the", "a", "was", "is", "very", "quite", "not")
WORDS = (*GOOD, *BAD, *FILLERS)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("MOEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 4 layers, 32 wide, with a tokenizer of a few words, saved as anyone would."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-bert"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=32,
        initializer_range=0.2,  # large enough for so small a model to learn in seconds
    )
    BertModel(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file with rows that can be learned: does a sentence hold more good words than bad ones?"""
    import random

    folder = tmp_path_factory.mktemp("task")
    chance = random.Random(0)
    for split, count in (("train", 96), ("validation", 48)):
        lines = []
        for _ in range(count):
            label = chance.randrange(2)
            judgement = chance.choice(GOOD if label else BAD)
            filler = chance.choices(FILLERS, k=chance.randrange(3, 9))
            filler.insert(chance.randrange(len(filler)), judgement)
            lines.append(json.dumps({"sentence": " ".join(filler), "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    task = {
        "name": "tiny",
        "summary": "good and bad words",
        "text": ["sentence"],
        "label": "label",
        "labels": ["bad", "good"],
        "train": "train.jsonl",
        "validation": "validation.jsonl",
        "max_length": 16,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(task))
    return folder / "tiny.yaml"


@pytest.fixture
def tiny_matrix(tmp_path: Path, tiny_checkpoint: Path, tiny_task: Path, cache: Path) -> Path:
    """A matrix of one method on the tiny task, trained in a second or two, without timing."""
    matrix = {
        "name": "tiny",
        "teacher": str(tiny_checkpoint),
        "tasks": [str(tiny_task)],
        "methods": [{"finetune": {"layers": 2}}],
        "seeds": [0],
        "budget": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3},
        "latency": None,
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(matrix))
    return file
