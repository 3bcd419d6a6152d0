"""Each trap of TextBrewer is shown in the raw library first, then its absence through the adapter."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import textbrewer
import torch
from distillation_cases import HIDDEN, SCORES, make_student, total
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional
from transformers import PreTrainedModel

from bench.errors import UserError
from bench.tasks.task import Task
from bench.toys import toy_batches, toy_teacher
from methods.distillation import Distillation, Match, masked_cosine


def raw_distiller(folder: Path, **config: Any) -> textbrewer.GeneralDistiller:
    training = textbrewer.TrainingConfig(device="cpu", output_dir=str(folder / "out"))
    return textbrewer.GeneralDistiller(
        training, textbrewer.DistillationConfig(**config), None, None, None, None
    )


def gradient_norm(loss: Tensor, of: Tensor) -> float:
    (gradient,) = torch.autograd.grad(loss, of)
    return float(gradient.norm())


def test_trap_soft_targets_fade_with_the_temperature(classification: Task, tmp_path: Path) -> None:
    logits = torch.randn(8, 3, requires_grad=True)
    taught = torch.randn(8, 3)

    def raw(temperature: float) -> float:
        distiller = raw_distiller(tmp_path, temperature=temperature)
        return gradient_norm(distiller.compute_loss({"logits": [logits]}, {"logits": [taught]})[0], logits)

    assert raw(8.0) < 0.1 * raw(1.0)  # the trap: no factor T²

    teacher, student = toy_teacher(classification), make_student(classification).eval()
    batch = toy_batches(classification)[0]

    def ours(temperature: float) -> float:
        objective = Distillation(teacher, student, classification, temperature=temperature)
        return gradient_norm(total(objective, batch), student.classifier.weight)

    assert ours(8.0) > 0.5 * ours(1.0)


def test_trap_one_logit_has_no_cross_entropy(regression: Task, tmp_path: Path) -> None:
    logits = torch.randn(8, 1, requires_grad=True)
    loss, _ = raw_distiller(tmp_path).compute_loss({"logits": [logits]}, {"logits": [torch.randn(8, 1)]})
    assert loss == 0  # the trap
    assert gradient_norm(loss, logits) == 0

    student = make_student(regression).eval()
    objective = Distillation(toy_teacher(regression), student, regression)
    assert gradient_norm(total(objective, toy_batches(regression)[0]), student.classifier.weight) > 0


def test_trap_the_teacher_keeps_its_mode(classification: Task, tmp_path: Path) -> None:
    teacher, student = toy_teacher(classification).train(), make_student(classification).eval()
    batch = toy_batches(classification)[0]
    raw = raw_distiller(tmp_path, hard_label_weight=0)
    raw.model_T, raw.model_S = teacher, student
    raw.adaptor_T = raw.adaptor_S = lambda _batch, outputs: {"logits": outputs.logits}
    assert (
        raw.train_on_batch(batch, {})[0] != raw.train_on_batch(batch, {})[0]
    )  # the trap: dropout noise is distilled

    objective = Distillation(teacher, student, classification).train()
    assert not teacher.training
    assert student.training
    assert not any(module.training for module in teacher.modules())
    student.eval()
    torch.testing.assert_close(objective(batch)["kd"], objective(batch)["kd"], rtol=0, atol=0)


def test_trap_the_teacher_gets_no_gradient(classification: Task) -> None:
    teacher, student = toy_teacher(classification).requires_grad_(True), make_student(classification)
    total(
        Distillation(teacher, student, classification, matches=[HIDDEN]), toy_batches(classification)[0]
    ).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_trap_the_callers_lists_are_changed(classification: Task) -> None:
    match: Match = {**HIDDEN, "proj": ["linear", 32, 32]}
    before = copy.deepcopy(match)
    textbrewer.DistillationConfig(intermediate_matches=[match])
    assert match != before  # the trap: a fourth entry was appended

    match = copy.deepcopy(before)
    matches = [match]
    Distillation(toy_teacher(classification), make_student(classification), classification, matches=matches)
    assert match == before
    assert matches == [before]


def test_trap_masked_cosine_has_a_shape_that_depends_on_data() -> None:
    with FakeTensorMode():
        states, mask = torch.randn(8, 12, 32), torch.ones(8, 12)
        with pytest.raises(DynamicOutputShapeException):
            textbrewer.MATCH_LOSS_MAP["cos"](states, states, mask=mask)  # the trap
        assert masked_cosine(states, states, mask=mask).shape == ()


def test_masked_cosine_equals_the_raw_one() -> None:
    student, teacher = torch.randn(2, 8, 12, 32).unbind()
    mask = (torch.arange(12) < torch.randint(1, 13, (8, 1))).long()
    torch.testing.assert_close(
        masked_cosine(student, teacher, mask), textbrewer.MATCH_LOSS_MAP["cos"](student, teacher, mask=mask)
    )


def test_trap_an_unmasked_attention_match_drops_negative_scores(classification: Task) -> None:
    student, teacher = torch.full((8, 4, 12, 12), -1.0), torch.full((8, 4, 12, 12), -3.0)
    raw = textbrewer.MATCH_LOSS_MAP["attention_mse"]
    assert raw(student, teacher) == 0  # the trap
    assert raw(student, teacher, mask=torch.ones(8, 12)) == 4

    models = toy_teacher(classification), make_student(classification).eval()
    batch = toy_batches(classification)[0]
    objective = Distillation(*models, classification, kd_weight=0.0, matches=[SCORES])
    taught, learned = (dumb_scores(model, batch) for model in models)
    tokens = batch["attention_mask"].bool()
    pairs = (tokens[:, :, None] & tokens[:, None, :])[:, None].expand_as(taught[3])
    assert (taught[3][pairs] < 0).any()
    expected = functional.mse_loss(learned[1][pairs], taught[3][pairs])
    torch.testing.assert_close(objective(batch)["attention_mse_1_3"], expected)


def dumb_scores(model: PreTrainedModel, batch: dict[str, Tensor]) -> list[Tensor]:
    """Recompute every layer's scores from its input, head by head."""
    states = model(**batch, output_hidden_states=True).hidden_states
    layers = []
    for layer, hidden in zip(model.bert.encoder.layer, states, strict=False):
        attention = layer.attention.self
        size = attention.attention_head_size
        heads = [slice(head * size, (head + 1) * size) for head in range(attention.num_attention_heads)]
        query, key = attention.query(hidden), attention.key(hidden)
        layers.append(torch.stack([query[..., h] @ key[..., h].mT / size**0.5 for h in heads], dim=1))
    return layers


def test_trap_a_span_softmax_reaches_the_padding(spans: Task, tmp_path: Path) -> None:
    teacher, student = toy_teacher(spans), make_student(spans).eval()
    batch = toy_batches(spans)[0]
    padded = {
        name: nn.functional.pad(value, (0, 5)) if value.dim() == 2 else value for name, value in batch.items()
    }

    def raw(rows: dict[str, Tensor]) -> Tensor:
        results = [{"logits": [m(**rows).start_logits, m(**rows).end_logits]} for m in (student, teacher)]
        return raw_distiller(tmp_path, temperature=1).compute_loss(*results)[0]

    assert not torch.isclose(raw(batch), raw(padded), rtol=1e-2)  # the trap: five more candidates

    objective = Distillation(teacher, student, spans)
    torch.testing.assert_close(objective(batch)["kd"], objective(padded)["kd"])


def test_trap_weight_schedulers_act_only_in_the_training_loop(classification: Task, tmp_path: Path) -> None:
    raw = raw_distiller(tmp_path, kd_loss_weight_scheduler="linear_decay")
    results = [{"logits": [torch.randn(8, 3)]} for _ in range(2)]
    first = raw.compute_loss(*results)[0]
    assert all(raw.compute_loss(*results)[0] == first for _ in range(3))  # the trap: nothing decays

    objective = Distillation(
        toy_teacher(classification),
        make_student(classification).eval(),
        classification,
        label_weight=1.0,
        schedules={"kd": lambda progress: 1 - progress},
    )
    batch = toy_batches(classification)[0]
    start = objective(batch)
    objective.progress.fill_(0.75)
    later = objective(batch)
    torch.testing.assert_close(later["kd"], start["kd"] / 4)
    torch.testing.assert_close(later["labels"], start["labels"])


def test_trap_two_matches_of_one_name_lose_a_loss(classification: Task, tmp_path: Path) -> None:
    raw = raw_distiller(tmp_path, intermediate_matches=[dict(HIDDEN), dict(HIDDEN)])
    states = [torch.randn(8, 12, 32)] * 5
    _, losses = raw.compute_loss({"hidden": states}, {"hidden": states})
    assert len(losses) == 1  # the trap: two losses were summed, one is told

    with pytest.raises(UserError, match="each once"):
        Distillation(
            toy_teacher(classification),
            make_student(classification),
            classification,
            matches=[HIDDEN, HIDDEN],
        )


def test_trap_a_folder_is_made_in_the_working_directory(
    classification: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    textbrewer.TrainingConfig(device="cpu")
    assert (tmp_path / "saved_models").is_dir()  # the trap
    (tmp_path / "saved_models").rmdir()
    objective = Distillation(toy_teacher(classification), make_student(classification), classification)
    objective(toy_batches(classification)[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:invalid escape")
def test_trap_the_first_import_warns(tmp_path: Path) -> None:
    package = Path(textbrewer.__file__).parent
    source = package / "configurations.py"
    with pytest.warns(SyntaxWarning, match="is not"):  # the trap: printed, or an error under -W error
        compile(source.read_text(encoding="utf-8"), source, "exec")

    shutil.copytree(package, tmp_path / "textbrewer", ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import sys, methods.distillation
assert "textbrewer" not in sys.modules
methods.distillation._textbrewer()
assert sys.modules["textbrewer"].__file__.startswith(sys.argv[1])
"""
    ours = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert ours.returncode == 0, ours.stderr
    assert "Warning" not in ours.stderr
