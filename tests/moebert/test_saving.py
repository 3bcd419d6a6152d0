"""Checkpoints come back bit for bit, in a fresh process, through the Auto classes and the library's own tools."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)

from moebert import MoEBertForSequenceClassification

RELOAD = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
import transformers
import moebert
torch.set_num_threads(1)
for folder, head in json.loads(sys.argv[1]):
    auto = {"span": "ForQuestionAnswering", "none": ""}.get(head, "ForSequenceClassification")
    model = getattr(transformers, f"AutoModel{auto}").from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**load_file(f"{folder}/inputs.safetensors"))
    tensors = [outputs[name] for name in outputs if torch.is_tensor(outputs[name])]
    save_file({str(index): tensor.contiguous() for index, tensor in enumerate(tensors)}, f"{folder}/found.safetensors")
"""


def test_a_fresh_process_gives_the_same_bits(
    make_student: Any, make_batch: Any, inputs_of: Any, tmp_path: Path
) -> None:
    runs, expected = [], {}
    for routing in ("hash-random", "hash-balanced", "gate-token", "gate-sentence"):
        for head in ("classification", "regression", "span", "none"):
            student = make_student(routing, head, torch.float32, routing_seed=5, num_experts=3)
            inputs = inputs_of(make_batch())
            folder = tmp_path / f"{routing}-{head}"
            student.save_pretrained(folder)
            save_file(
                {name: value.contiguous() for name, value in inputs.items()}, folder / "inputs.safetensors"
            )
            with torch.no_grad():
                outputs = student(**inputs)
            expected[folder] = [outputs[name] for name in outputs if torch.is_tensor(outputs[name])]
            runs.append((str(folder), head))
    subprocess.run([sys.executable, "-c", RELOAD, json.dumps(runs)], check=True, timeout=240)
    for folder, tensors in expected.items():
        found = load_file(folder / "found.safetensors")
        assert len(found) == len(tensors)
        for index, tensor in enumerate(tensors):
            assert torch.equal(found[str(index)], tensor), folder.name


def test_the_checkpoint_holds_the_routing_and_nothing_of_a_teacher(make_student: Any, tmp_path: Path) -> None:
    student = make_student("hash-random")
    student.bert.router.table.random_(0, 4)
    student.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == student.state_dict().keys()
    back = MoEBertForSequenceClassification.from_pretrained(tmp_path)
    for name, value in student.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    assert any("neuron_indices" in name for name in stored)


def test_the_implementation_can_be_chosen_while_loading_and_is_not_stored(
    make_student: Any, tmp_path: Path
) -> None:
    student = make_student("hash-random")
    student.set_experts_implementation("reference")
    student.save_pretrained(tmp_path)
    assert "experts_implementation" not in (tmp_path / "config.json").read_text()
    for name in ("reference", "grouped"):
        back = MoEBertForSequenceClassification.from_pretrained(tmp_path, experts_implementation=name)
        assert back.get_experts_implementation() == {"": name}


def test_half_precision_keeps_the_integers(make_student: Any, tmp_path: Path) -> None:
    student = make_student("hash-random", num_experts=3)
    student.save_pretrained(tmp_path)
    back = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert back.dtype == torch.bfloat16
    assert torch.equal(back.bert.router.table, student.bert.router.table)


@pytest.mark.parametrize("vocabulary", [90, 97, 104])
def test_a_resized_vocabulary_is_routed_and_reloads(
    make_student: Any, routing: str, vocabulary: int, tmp_path: Path
) -> None:
    student = make_student(routing, num_experts=3)
    before = None if student.bert.router is None else student.bert.router.table.clone()
    student.resize_token_embeddings(vocabulary, mean_resizing=False)
    ids = torch.tensor([[1, vocabulary - 1, 5, 2]])
    student.save_pretrained(tmp_path)
    back = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(back(input_ids=ids).logits, student(input_ids=ids).logits)
    if before is not None:
        table, kept = student.bert.router.table, min(vocabulary, 97)
        assert table.shape == (3, vocabulary)
        assert torch.equal(table[:, :kept], before[:, :kept])
        assert ((table >= 0) & (table < 3)).all()


@pytest.fixture
def words(tmp_path: Path) -> BertTokenizerFast:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    return BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))


def test_the_text_classification_pipeline_takes_a_saved_moebert(
    make_student: Any, words: BertTokenizerFast, routing: str, tmp_path: Path
) -> None:
    student, folder = make_student(routing, dtype=torch.float32), str(tmp_path / "model")
    student.save_pretrained(folder)
    words.save_pretrained(folder)
    texts = ["a good film", "bad"]
    found = pipeline("text-classification", model=folder, device="cpu")(texts, top_k=None)
    for text, scores in zip(texts, found, strict=True):
        with torch.no_grad():
            expected = student(**words(text, return_tensors="pt")).logits[0].softmax(0)
        by_label = {score["label"]: score["score"] for score in scores}
        for label, probability in enumerate(expected.tolist()):
            assert by_label[f"LABEL_{label}"] == pytest.approx(probability, abs=1e-6)


@pytest.mark.skipif(
    find_spec("accelerate") is None, reason="Trainer needs accelerate, which is not installed"
)
def test_trainer_trains_and_evaluates_a_moebert(
    make_student: Any, make_batch: Any, routing: str, tmp_path: Path
) -> None:
    batch = make_batch(batch=16)
    rows = [{name: value[index] for name, value in batch.items()} for index in range(16)]
    student = make_student(routing, dtype=torch.float32).train()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=30,
    )
    trainer = Trainer(model=student, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.8 * before
    assert trainer.predict(rows).predictions.shape == (16, 3)
