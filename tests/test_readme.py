"""The README's table, links and examples are true."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from bench import toys
from bench.sources import load_rows
from bench.tasks import catalog

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, holding: str) -> str:
    """Return the one code block of a language that holds a text."""
    (found,) = [
        text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in text
    ]
    return found


def test_its_table_is_drawn_from_committed_records():
    """That it is drawn anew is held for all documents, in test_docs.py."""
    assert "<!-- moebench table results/campaigns/" in README


def test_the_speed_ups_in_its_words_are_those_of_the_tables():
    """Those of docs/findings.md, which test_docs.py holds to the records."""
    tables = (ROOT / "docs/findings.md").read_text(encoding="utf-8").split("<!-- moebench table ")

    def speed_up(conditions: str, method: str) -> str:
        (table,) = [text for text in tables if f'--search "{conditions}"' in text.splitlines()[0]]
        (row,) = re.findall(rf"^\| {re.escape(method)} .*$", table, re.MULTILINE)
        return re.findall(r"[\d.]+×", row)[0]

    methods = r"moebert\[routing=hash-random\]", "finetune"
    said = README[README.index("With 128 rows of 128 tokens") : README.index("([all of it]")]
    conditions = "cuda-graph, bf16, 1 thread, 128x128", "eager, fp32, 1 thread, 1x128"
    assert re.findall(r"[\d.]+×", said) == [speed_up(one, method) for one in conditions for method in methods]


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(targets) > 5
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_example_method_works():
    names: dict = {}
    exec(compile(block("python", "class MyMethod"), "README.md", "exec"), names)  # noqa: S102 - our own text
    task = toys.toy_task("classification")
    teacher, batches = toys.toy_teacher(task), toys.toy_batches(task)
    method = names["MyMethod"](names["Config"](layers=2))
    student = method.compress(teacher, batches, task)
    assert student.config.num_hidden_layers == 2
    (stage,) = method.stages(teacher, student, task)
    terms = stage.objective(next(iter(batches)))
    assert set(terms) == {"labels", "logits"}
    assert all(torch.isfinite(term) for term in terms.values())


def test_the_example_task_is_read(tmp_path):
    (tmp_path / "my-task.yaml").write_text(block("yaml", "name: my-task"))
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text(
            "subject,body,urgent\nHelp,now please,yes\nHello,how are you,no\n"
        )
    rows = load_rows(catalog.find(str(tmp_path / "my-task.yaml")))
    assert list(rows.splits["train"]["urgent"]) == [1, 0]


def test_the_commands_are_those_of_the_command_line():
    from typer.main import get_command

    from bench.cli import app

    known = set(get_command(app).commands)
    assert set(re.findall(r"moebench ([a-z][a-z-]+)", README)) <= known
