"""Two methods on every task that has training rows: from real files to scores, predictions and the report."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from results.record import CellRecord
from results.store import RunFolder

REAL = os.environ.get("MOEBENCH_DATA")
TASKS = {  # with the parts that stand for splits which are not whole
    "cola": {},
    "sst2": {},
    "mrpc": {},
    "stsb": {},
    "qqp": {"train": "train-part", "validation": "validation-part"},
    "mnli": {"train": "train-part", "validation_mismatched": "validation_mismatched-part"},
    "qnli": {"train": "train-part"},
    "rte": {},
    "wnli": {},
    "ax": {"train": "train-part"},
    "squad-v1.1": {},
    "squad-v2.0": {},
}
METHODS = ("finetune", "moebert")
MOST_SECONDS = 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL, reason="MOEBENCH_DATA names no folder with GLUE and SQuAD"),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder; SQuAD v2.0, whose training rows are not there, has its validation rows divided by article."""
    folder, real = tmp_path / "data", Path(str(REAL))
    (folder / "squad" / "v2.0").mkdir(parents=True)
    (folder / "glue").symlink_to(real / "glue")
    (folder / "squad" / "v1.1").symlink_to(real / "squad" / "v1.1")
    rows = pq.read_table(real / "squad" / "v2.0" / "validation.parquet")
    titles = pc.unique(rows["title"]).to_pylist()
    first_half = pc.is_in(rows["title"], pa.array(titles[: len(titles) // 2]))
    pq.write_table(rows.filter(first_half), folder / "squad" / "v2.0" / "train.parquet")
    pq.write_table(rows.filter(pc.invert(first_half)), folder / "squad" / "v2.0" / "validation.parquet")
    return folder


@pytest.fixture
def teacher(data: Path, tmp_path: Path) -> Path:
    """A small BERT that has 512 positions and knows the words of the data."""
    from transformers import BertConfig, BertModel
    from wordpiece import word_tokenizer

    texts = []
    for file in ("glue/sst2/train.parquet", "glue/rte/train.parquet", "squad/v2.0/train.parquet"):
        rows = pq.read_table(data / file).slice(0, 500)
        columns = [
            name for name in ("sentence", "sentence1", "question", "context") if name in rows.column_names
        ]
        texts += [text for name in columns for text in rows[name].to_pylist()]
    tokenizer = word_tokenizer(texts, letters="abcdefghijklmnopqrstuvwxyz0123456789")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
    )
    BertModel(config).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.mark.timeout(2 * MOST_SECONDS)
def test_every_task_gives_scores_and_a_report_within_five_minutes(data, teacher, tmp_path):
    matrix = {
        "name": "every-task",
        "teacher": str(teacher),
        "tasks": [{name: parts} for name, parts in TASKS.items()],
        "methods": list(METHODS),
        "budget": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-4},
        "latency": None,
        "executor": {"name": "processes"},
    }
    (tmp_path / "every-task.yaml").write_text(yaml.safe_dump(matrix))
    command = [
        sys.executable,
        "-m",
        "bench.cli",
        "run",
        "every-task.yaml",
        "--limit",
        "64",
        "--data",
        str(data),
    ]
    started = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.strip().splitlines()[-1])
    assert outcome["cells"] == {"done": len(TASKS) * (1 + len(METHODS))}
    assert outcome["failures"] == []
    folder = RunFolder(tmp_path / "runs" / "every-task")
    found = {
        (record.task, record.label): record for record in folder.records() if isinstance(record, CellRecord)
    }
    assert set(found) == {(task, label) for task in TASKS for label in ("teacher", *METHODS)}
    for record in found.values():
        task = record.identity.task
        splits = [role for role in task["splits"] if role.startswith("validation")]
        assert record.rows == dict.fromkeys(("train", *splits), 64)
        for split in splits:
            assert list(record.scores[split]) == list(task["scores"])
            assert all(math.isfinite(value) for value in record.scores[split].values())
        assert pq.read_metadata(folder.predictions_file(record.id)).num_rows == 64 * len(splits)
    report = (folder.path / "report" / "report.md").read_text().replace("\\", "")
    for task, parts in TASKS.items():
        kept = [*parts.values(), "limit=64"]
        assert f"{task} [{', '.join(kept)}]" in report
    assert seconds < MOST_SECONDS, f"{seconds:.0f} s"
