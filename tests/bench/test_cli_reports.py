"""The commands around reports, on the committed quickstart."""

from __future__ import annotations

import json
import re
import shutil
import webbrowser
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from preloaded import Preloaded

from bench import registry
from bench.matrix import load_matrix
from bench.run import run as run_matrix
from bench.tasks import catalog
from results.record import CellRecord
from results.store import RunFolder

QUICKSTART = Path(__file__).parent.parent.parent / "results" / "campaigns" / "quickstart"


def test_open_shows_the_page_that_was_written(moebench, monkeypatch, tmp_path):
    opened: list[str] = []
    run = shutil.copytree(QUICKSTART, tmp_path / "run")
    for record in RunFolder(run).records():
        if record.label != "teacher":  # of which there is little to draw
            RunFolder(run).record_file(record.id).unlink()
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    code, _, stderr = moebench("report", run, "--out", tmp_path / "report", "--open")
    assert code == 0, stderr
    assert opened == [(tmp_path / "report" / "report.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    code, _, stderr = moebench("report", run, "--out", tmp_path / "report", "--open")
    assert code == 2
    assert "no browser could be started; open" in " ".join(stderr.split())


def test_a_run_compared_with_itself_shows_no_difference(moebench):
    code, stdout, stderr = moebench("compare", QUICKSTART, QUICKSTART)
    assert code == 0, stderr
    row = next(line for line in stdout.splitlines() if line.startswith("tinybert"))
    assert "+0.0 [+0.0, +0.0]" in row
    assert "A difference is the second run minus the first" in stdout


def test_an_exported_cell_has_a_card(moebench, monkeypatch, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(QUICKSTART, run)
    cell = next(one for one in RunFolder(run).records() if isinstance(one, CellRecord))
    model = RunFolder(run).model_folder(cell.id)
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"model_type": "bert"}))
    code, stdout, stderr = moebench("export", run, cell.id[:8], "--out", tmp_path / "card")
    assert code == 0, stderr
    assert stdout.split()[:2] == ["wrote", str(tmp_path / "card" / "README.md")]


LOADED_ELSEWHERE = """
import json, sys
import torch
torch.set_num_threads(1)
ids = torch.tensor(json.loads(sys.argv[1]))
with torch.inference_mode():
    logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
assert len(tokenizer) > 10
print(json.dumps([type(model).__name__, logits.double().tolist()]))
"""


def test_what_a_card_says_loads_the_exported_checkpoint_elsewhere(
    moebench, tiny_matrix, tiny_task, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    matrix = yaml.safe_load(tiny_matrix.read_text())
    methods = [{"moebert": {"num_experts": 2}}, "prune-structured"]
    tiny_matrix.write_text(yaml.safe_dump(matrix | {"methods": methods}))
    run = tmp_path / "run"
    assert run_matrix(load_matrix(str(tiny_matrix)), run).failures == []
    ids = [[2, 5, 6, 7, 3], [2, 9, 8, 7, 3]]
    kinds = {}
    # Nothing of ours is imported before the fork: the card has to name all that its model needs.
    with Preloaded(["torch", "transformers.models.bert.modeling_bert"], tmp_path) as python:
        for cell in (record for record in RunFolder(run).records() if record.teacher_id is not None):
            out = tmp_path / cell.id
            code, _, stderr = moebench("export", run, cell.id, "--out", out)
            assert code == 0, stderr
            card = ModelCard.load(out / "README.md")
            (block,) = re.findall(r"^```python\n(.*?)^```$", card.text, re.MULTILINE | re.DOTALL)
            python.start(json.dumps(ids), code=block + LOADED_ELSEWHERE, cwd=out)
            code = python.wait()
            stdout, stderr = python.output()
            assert code == 0, stderr
            kinds[cell.identity.method], logits = json.loads(stdout)
            method = registry.methods.get(cell.identity.method)()
            here = method.load(RunFolder(run).model_folder(cell.id), catalog.find(str(tiny_task))).eval()
            with torch.inference_mode():
                expected = here(
                    input_ids=torch.tensor(ids), attention_mask=torch.ones(2, 5, dtype=torch.int64)
                ).logits
            assert logits == expected.double().tolist()
    assert kinds["moebert"] == "MoEBertForSequenceClassification"
    assert kinds["prune-structured"].startswith("Pruned")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "{run}", "{tmp}/nowhere"], r"nowhere: no records"),
        (["export", "{run}", "zzz", "--out", "{tmp}/card"], r"no cell named 'zzz'"),
        (["export", "{run}", "{cell}", "--out", "{tmp}/card"], r"was not kept; run it again"),
        (["report", "{run}", "--out", "{tmp}"], r"exists and is not a report"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(moebench, tmp_path, words, message):
    (tmp_path / "mine").write_text("x")
    cell = next(one for one in RunFolder(QUICKSTART).records() if isinstance(one, CellRecord))
    words = [word.format(run=QUICKSTART, tmp=tmp_path, cell=cell.id) for word in words]
    code, stdout, stderr = moebench(*words)
    assert code == 2, stdout + stderr
    text = " ".join(stderr.split())
    assert text.startswith("error: ")
    assert text.count("error") == 1
    assert re.search(message, text), text
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
