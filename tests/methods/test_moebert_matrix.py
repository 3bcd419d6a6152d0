"""MoEBERT's cells in a matrix: what they take of the training rows, and what becomes of a grown student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from bench import checkpoints
from bench.cell import load_student
from bench.cost import count
from bench.data import encode
from bench.holdout import hold_out
from bench.matrix import load_matrix, presets
from bench.run import run
from bench.sources import Rows, load_rows
from bench.tasks import catalog
from bench.tasks.task import Task
from bench.toys import toy_batches, toy_teacher
from methods.moebert import MoEBert, MoEBertMethodConfig
from moebert.routing import balanced_hash
from results.record import CellRecord
from results.store import RunFolder

pytestmark = pytest.mark.usefixtures("cache")


def students(matrix: Path, out: Path, **keys: Any) -> list[CellRecord]:
    """Run a matrix; give the students' records back, tries among them."""
    file = matrix.with_name("changed.yaml")
    file.write_text(yaml.safe_dump(yaml.safe_load(matrix.read_text()) | keys))
    outcome = run(load_matrix(str(file)), out)
    assert outcome.failures == []
    records = [record for record in RunFolder(out).records() if isinstance(record, CellRecord)]
    return [record for record in records if record.identity.method != "teacher"]


def frequency(task: Task, rows: Rows, checkpoint: Path) -> torch.Tensor:
    """Count the tokens of the training rows one at a time."""
    resolved = checkpoints.resolve(str(checkpoint))
    encoded = encode(
        task,
        rows.splits["train"],
        checkpoints.load_tokenizer(resolved),
        cache=None,
        key="t",
        training=True,
    )
    counts = torch.zeros(checkpoints.load_model(resolved, task, seed=0).config.vocab_size, dtype=torch.int64)
    for index, length in enumerate(encoded.lengths):
        for token in encoded.batch(torch.tensor([index]).numpy(), int(length))["input_ids"][0].tolist():
            counts[token] += 1
    return counts


def table_of(out: Path, record: CellRecord) -> torch.Tensor:
    table: torch.Tensor = load_file(RunFolder(out).model_folder(record.id) / "model.safetensors")[
        "bert.router.table"
    ]
    return table


def test_the_balanced_hash_counts_all_training_rows_and_importance_only_those_for_calibration(
    tiny_matrix: Path, tiny_task: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    (record,) = students(
        tiny_matrix,
        out,
        methods=["moebert[routing=hash-balanced]"],
        calibration_rows=8,
        budget={"epochs": 0.5},
    )
    task = catalog.find(str(tiny_task))
    counts = frequency(task, load_rows(task, data=None, limit=None), tiny_checkpoint)
    assert record.calibration is not None
    assert record.calibration.sequences == 8 < record.rows["train"]
    assert record.calibration.counted_tokens == int(counts.sum())
    table = table_of(out, record)
    assert torch.equal(table, balanced_hash(counts, 4).expand_as(table))


def test_a_try_counts_only_the_rows_that_it_trains_on(
    tiny_matrix: Path, tiny_task: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out, tuning = tmp_path / "run", {"tries": 1, "rows": 0.25, "max_steps": 2}
    made = students(tiny_matrix, out, methods=["moebert[routing=hash-balanced]"], tuning=tuning)
    task = catalog.find(str(tiny_task))
    rows = load_rows(task, data=None, limit=None)
    for record in made:
        held_out = record.identity.held_out
        seen = rows if held_out is None else hold_out(task, rows, held_out)
        assert record.calibration is not None
        assert record.calibration.counted_tokens == int(frequency(task, seen, tiny_checkpoint).sum())
    assert len({record.calibration.counted_tokens for record in made if record.calibration}) == 2


def test_a_method_that_looks_at_no_rows_is_seen_to(tiny_matrix: Path, tmp_path: Path) -> None:
    (record,) = students(tiny_matrix, tmp_path / "run")
    assert record.calibration is not None
    assert (record.calibration.sequences, record.calibration.counted_tokens) == (0, 0)


@pytest.mark.parametrize("routing", ["hash-random", "gate-sentence"])
def test_a_grown_student_trains_and_reloads_and_costs_what_its_parent_did(
    tiny_matrix: Path, tmp_path: Path, routing: str
) -> None:
    out = tmp_path / "run"
    methods = [f"moebert[routing={routing}]", f"moebert[routing={routing},grow_to=8]"]
    parent, grown = students(tiny_matrix, out, methods=methods)
    if grown.identity.config["grow_to"] is None:
        parent, grown = grown, parent
    assert grown.training is not None
    curve = grown.training.stages[0].curve
    assert curve[-1].loss < curve[0].loss
    task = catalog.find(str(yaml.safe_load(tiny_matrix.read_text())["tasks"][0]))
    models = [
        load_student(record.identity, RunFolder(out).model_folder(record.id), task)
        for record in (parent, grown)
    ]
    saved = load_file(RunFolder(out).model_folder(grown.id) / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in models[1].state_dict().items())
    assert models[1].config.num_experts == 8
    costs = [record.cost for record in (parent, grown)]
    assert costs[0] is not None
    assert costs[1] is not None
    layers, hidden, size = 4, 32, 24
    gates = 4 * layers * hidden if routing.startswith("gate") else 0  # four more rows in every layer
    expert = 2 * hidden * size + size + 3 * hidden
    assert costs[1].effective_parameters == costs[0].effective_parameters + gates
    assert costs[1].stored_parameters == costs[0].stored_parameters + gates + layers * 4 * expert
    assert costs[1].stored_parameters == count(models[1], 32).stored_parameters
    assert costs[1].multiply_adds == costs[0].multiply_adds + gates


def test_the_logits_of_a_grown_student_are_the_same_after_reloading(
    classification: Task, tmp_path: Path
) -> None:
    method = MoEBert(MoEBertMethodConfig(grow_to=7, routing="gate-token"))
    batches = toy_batches(classification)
    student = method.compress(toy_teacher(classification), batches, classification).eval()
    student.save_pretrained(tmp_path)
    reloaded = method.load(tmp_path, classification).eval()
    assert torch.equal(reloaded(**batches[0]).logits, student(**batches[0]).logits)


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith("ablation")])
@pytest.mark.parametrize("width", [64, 96, 1200, 1536, 3072])
def test_an_ablation_fits_a_teacher_of_any_width(classification: Task, name: str, width: int) -> None:
    teacher = toy_teacher(classification, layers=1)
    dense = BertConfig(**(teacher.config.to_dict() | {"intermediate_size": width}))
    model = BertForSequenceClassification(dense)
    for choice in load_matrix(name).methods:
        method = MoEBert(MoEBertMethodConfig.model_validate(choice.options))
        student = method.compress(model, toy_batches(classification, batches=1), classification)
        assert student.config.intermediate_size == width
