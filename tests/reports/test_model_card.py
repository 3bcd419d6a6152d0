"""An exported cell: a folder that loads, a card that the hub's own reader accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from synthetic import cell, latency

from reports import export
from results.errors import RunFolderError
from results.record import CellRecord
from results.store import RunFolder


def run_with(folder: Path, record: CellRecord, *, model_type: str = "bert") -> Path:
    run = RunFolder(folder)
    run.write(cell("teacher"))
    run.write(record)
    if record.status == "done":
        run.write(latency(record))
    model = run.model_folder(record.id)
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"model_type": model_type}))
    (model / "model.safetensors").write_bytes(b"weights")
    return folder


def test_the_checkpoint_is_copied_and_the_card_comes_first(tmp_path: Path) -> None:
    record = cell("moebert")
    written = export(run_with(tmp_path / "run", record), record.id, tmp_path / "out")
    assert [path.name for path in written] == ["README.md", "config.json", "model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"weights"


def test_the_hubs_reader_accepts_the_metadata(tmp_path: Path) -> None:
    record = cell("moebert", scores={"validation": {"accuracy": 0.84, "f1": 0.8}})
    export(run_with(tmp_path / "run", record), record.id, tmp_path / "out")
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.pipeline_tag == "text-classification"
    results = {(result.metric_type, result.metric_value) for result in data.eval_results}
    assert results == {("accuracy", 0.84), ("f1", 0.8)}
    assert data.eval_results[0].dataset_name == "reviews"


def test_the_card_says_how_it_was_made_how_fast_it_is_and_its_limits(tmp_path: Path) -> None:
    record = cell("moebert", limit=64)
    record = record.model_copy(update={"paper": "moebert2022", "warnings": ["micro-batch halved"]})
    export(run_with(tmp_path / "run", record), record.id, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "Zuo et al., NAACL 2022",
        record.weights_sha256,
        "p50 (ms)",
        "the teacher's time over the method's",
        "SMOKE RUN: at most 64 rows",
        "micro-batch halved",
        "One seed (1) of 1",
        "one fused multiply-add counts as one",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("method", "model_type", "line"),
    [
        ("moebert", "moebert", "import moebert  # registers the model type 'moebert'"),
        ("prune-structured", "pruned-bert", "import methods.prune_structured "),
        ("not-installed", "other", "import the_package_of_the_method "),
    ],
)
def test_a_model_type_of_a_method_is_registered_by_loading_the_method(
    tmp_path: Path, method: str, model_type: str, line: str
) -> None:
    record = cell(method)
    export(run_with(tmp_path / "run", record, model_type=model_type), record.id, tmp_path / "out")
    assert line in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_what_transformers_brings_needs_no_import(model_type: str, tmp_path: Path) -> None:
    record = cell("finetune")
    export(run_with(tmp_path / "run", record, model_type=model_type), record.id, tmp_path / "out")
    assert "registers the model type" not in (tmp_path / "out" / "README.md").read_text()


def test_the_card_has_every_heading_of_a_card(tmp_path: Path) -> None:
    record = cell("moebert")
    export(run_with(tmp_path / "run", record), record.id, tmp_path / "out")
    text = ModelCard.load(tmp_path / "out" / "README.md").text
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["Intended use", "Results", "Latency", "How it was made", "How to load it", "Limits"]
    for number, heading in enumerate(headings):
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert len(section.split()) > 5, headings[number]


def test_hard_names_do_not_break_the_metadata(tmp_path: Path) -> None:
    record = cell("a: b #c\n- <script> 模型", task="t: 'x'")
    export(run_with(tmp_path / "run", record), record.id, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.eval_results[0].dataset_name == "t: 'x'"
    assert "<script>" not in card.text


def test_the_beginning_of_an_id_is_enough(tmp_path: Path) -> None:
    record = cell("moebert")
    assert export(run_with(tmp_path / "run", record), record.id[:10], tmp_path / "out")


def test_an_unknown_cell_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    record = cell("moebert")
    run = run_with(tmp_path / "run", record)
    with pytest.raises(RunFolderError, match=rf"no cell named 'nothing'; known: .*{record.id}"):
        export(run, "nothing", tmp_path / "out")
    with pytest.raises(RunFolderError, match="2 cells named ''"):
        export(run, "", tmp_path / "out")
    with pytest.raises(RunFolderError, match=rf"did you mean {record.id}\?"):
        export(run, record.id[:-1] + "x", tmp_path / "out")


def test_a_cell_that_did_not_finish_cannot_be_exported(tmp_path: Path) -> None:
    record = cell("moebert", status="failed", reason="out of memory")
    with pytest.raises(RunFolderError, match="is failed: out of memory"):
        export(run_with(tmp_path / "run", record), record.id, tmp_path / "out")


def test_a_checkpoint_that_was_not_kept_is_said(tmp_path: Path) -> None:
    record = cell("moebert")
    RunFolder(tmp_path / "run").write(record)
    with pytest.raises(RunFolderError, match="was not kept"):
        export(tmp_path / "run", record.id, tmp_path / "out")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    record = cell("moebert")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="not empty"):
        export(run_with(tmp_path / "run", record), record.id, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
