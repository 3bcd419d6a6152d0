from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import UserError
from bench.sources import load_rows
from bench.tasks.own import read_task

TEN_LINES = """\
name: tickets
summary: is a ticket urgent
text: [subject, body]
label: urgency
labels: [later, soon, now]
id: number
train: train.csv
validation: dev.tsv
max_length: 64
main_score: accuracy
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(
        'number,subject,body,urgency\n1,down,"it is ""down"",\nall of it",now\n2,NA,,later\n'
    )
    (tmp_path / "dev.tsv").write_text('number\tsubject\tbody\turgency\n3\tso "so"\ta, b\tsoon\n')
    (tmp_path / "mine.yaml").write_text(TEN_LINES)
    return tmp_path


def test_ten_lines_make_a_task_of_csv_and_tsv(folder: Path) -> None:
    task = read_task(folder / "mine.yaml")
    assert (task.name, task.head, task.num_labels, task.max_length) == ("tickets", "classification", 3, 64)
    rows = load_rows(task)
    assert rows.splits["train"][:] == {
        "subject": ["down", "NA"],
        "body": ['it is "down",\nall of it', ""],
        "urgency": [2, 0],
        "number": ["1", "2"],
    }
    assert rows.splits["validation"][:] == {
        "subject": ['so "so"'],
        "body": ["a, b"],
        "urgency": [1],
        "number": ["3"],
    }


def test_only_text_label_and_files_are_needed(folder: Path) -> None:
    (folder / "short.yaml").write_text("text: a\nlabel: y\ntrain: rows.jsonl\nvalidation: dev.jsonl\n")
    (folder / "rows.jsonl").write_text('{"a": "x", "y": 1.5}\n{"a": "2020-01-01", "y": 2}\n')
    (folder / "dev.jsonl").write_text('{"a": "y", "y": 0}\n')
    task = read_task(folder / "short.yaml")
    assert (task.name, task.head, task.main_score) == ("short", "regression", "pearson")
    assert load_rows(task).splits["train"][:] == {"a": ["x", "2020-01-01"], "y": [1.5, 2.0]}


def test_questions_of_one_s_own(folder: Path) -> None:
    (folder / "qa.yaml").write_text(
        "head: extractive-qa\ntext: [question, context]\ntrain: qa.jsonl\nvalidation: dev.jsonl\n"
    )
    (folder / "qa.jsonl").write_text(
        '{"question": "who", "context": "it was me", "answers": {"text": ["me"], "answer_start": [7]}}\n'
        '{"question": "when", "context": "it was me", "answers": {"text": [], "answer_start": []}}\n'
    )
    (folder / "dev.jsonl").write_text((folder / "qa.jsonl").read_text())
    task = read_task(folder / "qa.yaml")
    assert (task.label, task.main_score) == ("answers", "f1")
    answers = [{"text": ["me"], "answer_start": [7]}, {"text": [], "answer_start": []}]
    assert list(load_rows(task).splits["train"]["answers"]) == answers


def test_one_file_for_training_and_scoring_is_refused(folder: Path) -> None:
    (folder / "short.yaml").write_text("text: a\nlabel: y\ntrain: rows.jsonl\nvalidation: rows.jsonl\n")
    (folder / "rows.jsonl").write_text('{"a": "x", "y": 1.5}\n')
    with pytest.raises(
        UserError, match=r"task 'short': train and validation are the same rows, 'rows\.jsonl'"
    ):
        load_rows(read_task(folder / "short.yaml"))


def test_a_bad_row_is_named_by_file_and_row(folder: Path) -> None:
    (folder / "dev.tsv").write_text("number\tsubject\tbody\turgency\n3\ta\tb\tsoon\n4\ta\tb\tnever\n")
    message = r"dev\.tsv, row 2: column 'urgency' is 'never'; possible: 0 = later, 1 = soon, 2 = now"
    with pytest.raises(UserError, match=message):
        load_rows(read_task(folder / "mine.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: urgency", "lable: urgency", r"mine\.yaml: .*unknown key 'lable'; did you mean 'label'"),
        ("train: train.csv\n", "", "missing key 'train'"),
        ("text: [subject, body]", "text: [a, b, c]", "text: .*at most 2 items"),
        ("max_length: 64", "max_length: long", "max_length: .*valid integer"),
        ("max_length: 64", "max_length: 2", "max_length: .*greater than or equal to 8"),
        (
            "labels: [later, soon, now]",
            "labels: [no, yes]",
            "labels: YAML reads yes, no, on, off as true and false",
        ),
        ("labels: [later, soon, now]", "labels: [now]", "classification needs two or more labels"),
        ("main_score: accuracy", "main_score: f1", "main_score 'f1' is not among scores"),
        ("name: tickets", "name: ../tickets", "name: .*pattern"),
        ("train: train.csv", "train: none.csv", r"mine\.yaml: no file .*none\.csv with the train rows"),
        (
            "name: tickets",
            "name: !!python/object/apply:os.getcwd []",
            "not readable as YAML: .*could not determine",
        ),
        ("name: tickets", "name: [", "not readable as YAML"),
    ],
)
def test_a_wrong_file_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    assert old in TEN_LINES
    (folder / "mine.yaml").write_text(TEN_LINES.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_task(folder / "mine.yaml")


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(
        UserError, match=r"mine\.yaml: a task is a mapping: text, label, labels, train, validation"
    ):
        read_task(tmp_path / "mine.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml: no such file"):
        read_task(tmp_path / "mine.yaml")
