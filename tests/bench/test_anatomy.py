"""Anatomies as people ask for them: of a checkpoint, of a run, with and without a teacher, and of the wrong thing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from planted import EXPERT, LAYER, planted, with_equal_experts
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from bench.anatomy import find
from moebert import MoEBertConfig, MoEBertForSequenceClassification
from reports.agreement import label_loyalty
from reports.anatomies import missed
from results.anatomy import Measures
from results.predictions import read_predictions
from results.record import AnatomyRecord, CellRecord
from results.store import RunFolder

GOOD, BAD, VOCABULARY = (5, 6, 7), (8, 9, 10), 23  # of the tiny checkpoint's tokenizer


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def saved(model, tiny_checkpoint: Path, folder: Path) -> Path:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory) -> Path:
    return saved(planted(VOCABULARY, GOOD, BAD), tiny_checkpoint, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def trained(tiny_checkpoint, tiny_task, tmp_path_factory) -> Path:
    """A run of a mixture and a dense student, without its report."""
    folder = tmp_path_factory.mktemp("runs")
    matrix = {
        "name": "tiny",
        "teacher": str(tiny_checkpoint),
        "tasks": [str(tiny_task)],
        "methods": ["moebert[num_experts=3]", "finetune[layers=2]"],
        "budget": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3},
        "latency": None,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(matrix))
    from bench.matrix import load_matrix
    from bench.run import run

    assert run(load_matrix(str(folder / "tiny.yaml")), folder / "run").failures == []
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def cell_of(run: Path, label: str) -> CellRecord:
    cells = [record for record in RunFolder(run).records() if isinstance(record, CellRecord)]
    return next(cell for cell in cells if cell.label.startswith(label))


def anatomy_of(run: Path) -> AnatomyRecord:
    (found,) = (record for record in RunFolder(run).records() if isinstance(record, AnatomyRecord))
    return found


@pytest.fixture(scope="module")
def places(checkpoint, trained, tiny_checkpoint, tiny_task, tmp_path_factory) -> dict[str, object]:
    """Every wrong thing that somebody may give, and the right ones beside."""
    folder = tmp_path_factory.mktemp("places")
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 64}
    other = BertForSequenceClassification(BertConfig(**shape, num_hidden_layers=3))
    three = MoEBertForSequenceClassification(
        MoEBertConfig(**shape, num_hidden_layers=1, max_position_embeddings=32, num_labels=3)
    )
    reverse = planted(VOCABULARY, GOOD, BAD)
    reverse.config.id2label = {0: "good", 1: "bad"}
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("mine")
    cell = cell_of(trained, "moebert").id
    return {
        "checkpoint": checkpoint,
        "task": tiny_task,
        "tmp": folder,
        "run": trained,
        "dense": tiny_checkpoint,
        "other": saved(other, tiny_checkpoint, folder / "other"),
        "three": saved(three, tiny_checkpoint, folder / "three"),
        "reverse": saved(reverse, tiny_checkpoint, folder / "reverse"),
        "full": folder / "full",
        "bare": shutil.copytree(trained, folder / "bare", ignore=lambda *_: ["models"]),
        "students": shutil.copytree(trained, folder / "students", ignore=lambda *_: [cell, f"{cell}.json"]),
        "cell": cell,
        "student": cell_of(trained, "finetune").id,
        "near": cell[:-1] + "x",
    }


def sentences(tiny_task: Path) -> list[str]:
    lines = (tiny_task.parent / "validation.jsonl").read_text().splitlines()
    return [json.loads(line)["sentence"] for line in lines]


def test_a_checkpoint_gives_a_report_that_finds_what_was_planted(moebench, checkpoint, tiny_task, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = moebench("anatomy", checkpoint, "--task", tiny_task, "--out", out)
    assert code == 0, stderr
    assert str(out / "report.md") in stdout.replace("\n", "")
    assert "1 of 8" in stdout, "experts that are missed, in the terminal's table"
    names = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert {f"figures/anatomy.{kind}" for kind in ("png", "svg", "pdf")} <= names
    (file,) = out.glob("anatomy-*.json")
    found = Measures.model_validate(AnatomyRecord.model_validate_json(file.read_text()).measures)
    assert found.replacement.baseline == 1
    assert missed(found) == {(LAYER, EXPERT)}
    assert found.replacement.low[LAYER][EXPERT] > 0.2
    assert found.subject.rows == found.subject.available_rows == 48
    assert set(found.absent) == {"movement", "agreement"}
    assert "no teacher" in (out / "report.md").read_text()
    words = {token.token for token in found.tokens.commonest[LAYER][EXPERT]}
    assert words <= {"good", "fine", "great", "bad", "poor", "awful"}
    assert min(token.count for token in found.tokens.commonest[LAYER][EXPERT]) >= found.tokens.at_least == 5


def test_where_all_experts_are_equal_the_report_finds_none(moebench, tiny_checkpoint, tiny_task, tmp_path):
    model = with_equal_experts(planted(VOCABULARY, GOOD, BAD))
    folder = saved(model, tiny_checkpoint, tmp_path / "equal")
    code, _, stderr = moebench("anatomy", folder, "--task", tiny_task, "--out", tmp_path / "out")
    assert code == 0, stderr
    (file,) = (tmp_path / "out").glob("anatomy-*.json")
    found = Measures.model_validate(AnatomyRecord.model_validate_json(file.read_text()).measures)
    assert missed(found) == set()
    assert found.replacement.drop == found.replacement.low == found.replacement.high == [[0] * 4] * 2
    assert np.array(found.outputs.cka[LAYER]) == pytest.approx(np.ones((4, 4)))


def test_sentences_are_written_where_asked_for_and_nowhere_else(
    moebench, checkpoint, tiny_task, run, tmp_path
):
    moebench("anatomy", checkpoint, "--task", tiny_task, "--out", tmp_path / "without")
    moebench("anatomy", checkpoint, "--task", tiny_task, "--out", tmp_path / "with", "--examples")
    (examples,) = (tmp_path / "with").glob("examples-*.md")
    assert sum(sentence in examples.read_text() for sentence in sentences(tiny_task)) >= 3
    moebench("anatomy", run, "--examples")
    cell = cell_of(run, "moebert")
    assert any(
        sentence in (run / "anatomy-examples" / f"{cell.id}.md").read_text()
        for sentence in sentences(tiny_task)
    )
    others = [
        file
        for folder in (tmp_path / "without", tmp_path / "with", run / "records")
        for file in folder.rglob("*")
        if file.is_file() and file != examples
    ]
    assert len(others) > 20
    for file in others:
        content = file.read_bytes()
        assert not any(sentence.encode() in content for sentence in sentences(tiny_task)), file


def test_every_mixture_of_a_run_leaves_a_record_and_the_report_shows_it(moebench, run):
    code, _, stderr = moebench("anatomy", run)
    assert code == 0, stderr
    cell, record = cell_of(run, "moebert"), anatomy_of(run)
    assert (record.cell_id, record.label, record.seed) == (cell.id, cell.label, 0)
    assert record.environment in RunFolder(run).environments()
    found = Measures.model_validate(record.measures)
    assert found.absent == {}
    assert found.replacement.baseline == pytest.approx(cell.scores["validation"]["accuracy"])
    assert np.isfinite(np.array(found.weights.initial_cosine)).all()
    assert found.subject.teacher == cell_of(run, "teacher").weights_sha256
    folder = RunFolder(run)
    ours, theirs = (
        read_predictions(folder.predictions_file(one))["validation"].logits
        for one in (cell.id, cell.teacher_id)
    )
    assert found.agreement.label_loyalty == pytest.approx(label_loyalty(ours, theirs))
    code, _, stderr = moebench("report", run)
    assert code == 0, stderr
    assert 'id="table-anatomy-experts"' in (run / "report" / "report.html").read_text()
    assert (run / "report" / "figures" / "anatomy.svg").is_file()


def test_the_rows_are_looked_for_where_the_run_found_them(run):
    matrix = yaml.safe_load((run / "matrix.yaml").read_text())
    (run / "matrix.yaml").write_text(yaml.safe_dump(matrix | {"data": "/somewhere/else"}))
    (subject,) = find(run, task=None, teacher=None, cell=None)
    assert subject.data == Path("/somewhere/else")


def test_a_joined_run_keeps_its_anatomies(moebench, run, tmp_path):
    moebench("anatomy", run, "--limit", "10")
    assert moebench("merge", run, "--out", tmp_path / "joined")[0] == 0
    assert anatomy_of(tmp_path / "joined") == anatomy_of(run)


def test_an_anatomy_made_again_takes_the_place_of_the_earlier_one(moebench, run):
    moebench("anatomy", run, "--limit", "20")
    assert Measures.model_validate(anatomy_of(run).measures).subject.rows == 20
    first = anatomy_of(run)
    moebench("anatomy", run, "--cell", first.cell_id[:6], "--limit", "20")
    assert anatomy_of(run).measures == first.measures
    moebench("anatomy", run, "--task", yaml.safe_load((run / "matrix.yaml").read_text())["tasks"][0]["name"])
    assert Measures.model_validate(anatomy_of(run).measures).subject.rows == 48


def test_a_checkpoint_of_a_run_with_its_teacher_measures_as_the_run_does(moebench, run, tiny_task, tmp_path):
    folder, cell = RunFolder(run), cell_of(run, "moebert")
    teacher = folder.model_folder(cell.teacher_id)
    words = ["--task", tiny_task, "--teacher", teacher, "--out", tmp_path / "out"]
    code, _, stderr = moebench("anatomy", folder.model_folder(cell.id), *words)
    assert code == 0, stderr
    moebench("anatomy", run)
    (file,) = (tmp_path / "out").glob("anatomy-*.json")
    alone = AnatomyRecord.model_validate_json(file.read_text()).measures
    in_run = anatomy_of(run).measures
    assert {name for name in alone if alone[name] != in_run[name]} <= {"subject"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{checkpoint}"], "say what it was trained for: --task"),
        (["{checkpoint}", "--task", "rotten-tomatos"], "did you mean 'rotten-tomatoes'?"),
        (["{checkpoint}", "--task", "{task}", "--cell", "abc"], "a checkpoint has no cells"),
        (["{checkpoint}", "--task", "{task}", "--teacher", "{tmp}/nowhere"], "nowhere"),
        (["{checkpoint}", "--task", "{task}", "--teacher", "{other}"], "but the teacher's is"),
        (["{checkpoint}", "--task", "{task}", "--out", "{full}"], "is not a report"),
        (["{checkpoint}", "--task", "stsb"], "stsb"),
        (["{three}", "--task", "{task}"], "has no head for task 'tiny' (classification, 2 outputs)"),
        (["{reverse}", "--task", "{task}"], "its classes are good, bad; those of task 'tiny' are bad, good"),
        (["{dense}", "--task", "{task}"], "its model_type is 'bert', which is no mixture of experts known"),
        (["{tmp}", "--task", "{task}"], "neither a run folder (records/) nor a checkpoint (config.json)"),
        (["{run}", "--cell", "{near}"], "did you mean '{cell}'?"),
        (["{run}", "--cell", "{student}"], "its model_type is 'bert', which is no mixture"),
        (["{run}", "--teacher", "{dense}"], "--teacher is for a checkpoint"),
        (["{run}", "--task", "rotten-tomatoes"], "unknown task 'rotten-tomatoes'; known: tiny"),
        (["{run}", "--limit", "1"], "'--limit'"),
        (["{bare}"], "its checkpoints are not here"),
        (["{students}"], "no finished cell is a mixture of experts; there are bert; possible: moebert"),
    ],
)
def test_bad_input_is_one_clear_line_exit_code_2_and_nothing_written(
    moebench, places, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOEBENCH_DATA", raising=False)
    before = sorted(places["tmp"].rglob("*"))
    code, stdout, stderr = moebench("anatomy", *(word.format(**places) for word in words))
    assert code == 2, stdout + stderr
    assert message.format(**places) in stderr
    assert "Traceback" not in stderr
    assert sorted(places["tmp"].rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_finished_mixture_says_what_it_has(moebench, run):
    file = RunFolder(run).record_file(cell_of(run, "moebert").id)
    document = json.loads(file.read_text()) | {"status": "failed", "reason": "no memory", "scores": {}}
    file.write_text(json.dumps(document))
    code, _, stderr = moebench("anatomy", run, "--cell", file.stem)
    assert code == 2
    assert "no finished cell to measure (moebert is failed)" in stderr.replace("[num_experts=3]", "")


def test_rows_that_are_not_the_cells_own_are_refused(moebench, run, tiny_task, tmp_path):
    folder = shutil.copytree(tiny_task.parent, tmp_path / "task")
    rows = (folder / "validation.jsonl").read_text().splitlines()
    (folder / "validation.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    code, _, stderr = moebench("anatomy", run, "--task", folder / "tiny.yaml")
    assert code == 2
    assert "are not those that it was trained on" in stderr
