"""Anatomies as people ask for them: of a checkpoint, of a run, with and without a teacher, and of the wrong thing."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from planted import EXPERT, LAYER, planted, with_equal_experts
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification
from wordpiece import word_tokenizer

from bench.anatomy import find
from bench.anatomy.measures import Reading, TeacherSays, load_measures, measures, token_measures
from bench.anatomy.scores import Scored, drops, scored, swap_p_value
from bench.batching import evaluation_batches
from bench.data import encode
from bench.evaluation import predict, score
from bench.tasks.task import Source, Task
from moebert import MoEBertConfig, MoEBertForQuestionAnswering, MoEBertForSequenceClassification
from moebert.anatomy import dissect
from moebert.routing import RoutingStatistics
from reports.agreement import label_loyalty
from reports.anatomies import missed
from reports.statistics import holm
from results.anatomy import Measures
from results.anatomy import Subject as SubjectRecord
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


# Load and tokens, the other heads, and the interval


def test_load_is_counted_token_by_token():
    counts = torch.randint(0, 9, (2, 7, 3))
    counts[:, :, 0] += 20 - counts.sum(2)  # a token comes as often in every layer
    counts[1, :, :] = torch.tensor([20, 0, 0])
    found = load_measures(RoutingStatistics(counts))
    for layer in range(2):
        by_expert = [sum(int(counts[layer, token, expert]) for token in range(7)) for expert in range(3)]
        shares = [count / sum(by_expert) for count in by_expert]
        assert found.share[layer] == pytest.approx(shares, abs=1e-6)
        assert found.imbalance[layer] == pytest.approx(3 * max(shares), abs=1e-5)
        assert found.balance_coefficient[layer] == pytest.approx(
            3 * sum(share**2 for share in shares), abs=1e-5
        )
        entropy = -sum(share * math.log(share) for share in shares if share) / math.log(3)
        assert found.entropy[layer] == pytest.approx(entropy, abs=1e-5)
    assert (found.entropy[1], found.imbalance[1]) == (0, 3)


def test_the_commonest_tokens_come_by_name_with_count_and_share():
    tokenizer = word_tokenizer(["good bad plot"])
    counts = torch.zeros(1, 8, 2, dtype=torch.int64)
    counts[0, 5], counts[0, 6], counts[0, 7] = (
        torch.tensor([30, 10]),
        torch.tensor([5, 0]),
        torch.tensor([4, 0]),
    )
    found = token_measures(RoutingStatistics(counts), tokenizer)
    first, second = (
        [(one.token, one.count, one.share) for one in listed] for listed in found.commonest[0]
    )  # fmt: skip
    assert first == [("good", 30, 0.75), ("bad", 5, 1.0)], "what came four times is no evidence"
    assert second == [("good", 10, 0.25)]


def toy(head: str) -> Task:
    return Task(
        name="toy",
        summary="",
        head=head,  # type: ignore[arg-type]
        source=Source(kind="directory", path="toy"),
        text=("question", "context") if head == "extractive-qa" else ("text",),
        label="answers" if head == "extractive-qa" else "label",
        splits={"train": "train", "validation": "validation"},
        main_score="f1" if head == "extractive-qa" else "pearson",
        scores=("f1", "exact_match") if head == "extractive-qa" else ("pearson",),
        max_length=24,
        licence="none",
        citation="none",
    )


def toy_rows(head: str) -> Dataset:
    words = [f"w{number}" for number in range(12)]
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 14)) for _ in range(20)]
    if head == "regression":
        return Dataset.from_dict({"text": texts, "label": random.normal(size=20)})
    answers = [{"text": [text.split()[4]], "answer_start": [text.index(text.split()[4])]} for text in texts]
    return Dataset.from_dict({"question": ["w1 w2"] * 20, "context": texts, "answers": answers})


@pytest.mark.parametrize("head", ["regression", "extractive-qa"])
def test_heads_without_classes_have_no_labels_and_no_loyalty_and_a_drop_all_the_same(head):
    torch.manual_seed(0)
    task, rows = toy(head), toy_rows(head)
    tokenizer = word_tokenizer([f"w{number}" for number in range(12)])
    encoded = encode(task, rows, tokenizer, cache=None, key="toy")
    classes = {"regression": MoEBertForSequenceClassification, "extractive-qa": MoEBertForQuestionAnswering}
    model = classes[head](
        MoEBertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            num_labels=task.num_labels,
            initializer_range=0.5,
        )
    ).eval()
    plan = list(evaluation_batches(encoded.lengths, 6))
    found = dissect(model, [encoded.batch(batch.indices, batch.length) for batch in plan])
    reading = Reading(task, rows, encoded, np.concatenate([batch.indices for batch in plan]))
    about = SubjectRecord(checkpoint="", teacher="", model_type="", routing="", data="", rows=20,
                          available_rows=20, tokens=int(encoded.lengths.sum()))  # fmt: skip
    written = measures(found, reading, TeacherSays(None, "no classes"), tokenizer, about)
    assert set(written.absent) == {"movement", "labels", "agreement"}
    logits = predict(model, encoded, batch_size=6, precision="fp32")
    whole = score(task, rows, encoded, logits)[task.main_score]
    assert written.replacement.baseline == pytest.approx(whole, abs=1e-5)
    assert written.replacement.changed is written.replacement.lost is None
    assert any(drop for layer in written.replacement.drop for drop in layer)
    p_values = np.array(written.replacement.p_value)
    assert p_values.shape == np.shape(written.replacement.drop)
    assert ((p_values > 0) & (p_values <= 1)).all()
    assert p_values.min() < 1
    assert reading.by_row(found.visits).sum((1, 2)).tolist() == [
        2 * int(encoded.lengths[encoded.rows == row].sum()) for row in range(20)
    ]
    assert json.loads(written.model_dump_json())["labels"] is None


def means(values: np.ndarray) -> Scored:
    return Scored(values.astype(float), lambda answers, _: float(answers.mean()))


def test_the_interval_of_a_drop_is_that_of_paired_differences():
    random = np.random.default_rng(0)
    right = random.random(800) < 0.8
    worse = right & (random.random(800) < 0.95)
    found = drops(means(right), {(0, 0): means(worse), (0, 1): means(right)}, 800)
    lost = right.astype(float) - worse
    error = lost.std(ddof=1) / np.sqrt(800)
    assert found[0, 0].value == pytest.approx(lost.mean())
    assert found[0, 0].low == pytest.approx(lost.mean() - 1.96 * error, abs=0.2 * error)
    assert found[0, 0].high == pytest.approx(lost.mean() + 1.96 * error, abs=0.2 * error)
    assert (found[0, 1].value, found[0, 1].low, found[0, 1].high) == (0, 0, 0)


def test_a_score_of_chosen_rows_counts_repeated_rows():
    task, rows = toy("regression"), toy_rows("regression")
    encoded = encode(task, rows, word_tokenizer(["w1"], letters="w0123456789"), cache=None, key="toy")
    logits = np.random.default_rng(1).normal(size=(20, 1)).astype(np.float32)
    value = scored(task, rows, encoded, logits)
    chosen = np.array([0, 3, 3, 7, 9])
    expected = np.corrcoef(logits[chosen, 0], np.array(rows["label"][:])[chosen])[0, 1]
    assert value(chosen) == pytest.approx(expected, abs=1e-6)


def test_the_p_value_of_swaps_is_that_of_all_sign_changes():
    random = np.random.default_rng(0)
    own = random.random(40)
    gaps = np.concatenate([random.random(8), [-0.2]])  # nine rows differ: 512 ways to swap them
    other = np.concatenate([own[:9] - gaps, own[9:]])
    exact = np.mean([
        abs(gaps @ np.array([1 if number >> bit & 1 else -1 for bit in range(9)])) >= abs(gaps.sum()) - 1e-12
        for number in range(512)
    ])  # fmt: skip
    assert exact < 0.05
    assert swap_p_value(means(own), means(other)) == pytest.approx(exact, rel=0.35)
    assert swap_p_value(means(own), means(own)) == 1


def test_the_p_value_of_swaps_is_small_where_a_correlation_falls_and_even_where_it_is_noise():
    random = np.random.default_rng(0)
    labels = random.normal(size=300)

    def correlated(noise: float) -> Scored:
        answers = labels + noise * random.normal(size=300)
        return Scored(answers, lambda given, rows: float(np.corrcoef(given, labels[rows])[0, 1]))

    assert swap_p_value(correlated(0.5), correlated(1.0)) == 1 / 5000
    chance = [swap_p_value(correlated(0.5), correlated(0.5)) for _ in range(60)]
    assert np.mean(np.array(chance) < 0.05) < 0.15
    assert 0.35 < np.mean(chance) < 0.65


def test_of_many_experts_without_any_effect_none_is_missed_though_some_interval_lies_above_0():
    random = np.random.default_rng(0)
    own = random.random(200)
    others = {(0, expert): means(own + 0.1 * random.normal(size=200)) for expert in range(40)}
    found = drops(means(own), others, 200)
    assert any(drop.low > 0 for drop in found.values())
    written = holm({expert: swap_p_value(means(own), other) for expert, other in others.items()})
    assert min(written.values()) > 0.05
