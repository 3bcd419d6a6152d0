from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bench.tasks.task import Task
from bench.toys import toy_batches, toy_teacher
from methods.prune_magnitude import PruneMagnitude, PruneMagnitudeConfig, encoder_linears, raise_sparsity


def weights(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([linear.weight.detach().flatten() for linear in encoder_linears(model)])


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 0), (0.2, 0), (0.5, 0.7 * (1 - 0.5**3)), (0.8, 0.7), (1.0, 0.7)]
)
def test_ramp_is_cubic_between_its_ends(progress: float, share: float) -> None:
    config = PruneMagnitudeConfig(keep=0.3, ramp_start=0.2, ramp_end=0.8)
    assert config.sparsity(progress) == pytest.approx(share)


def test_a_ramp_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"ramp_start 0\.7 must come before ramp_end 0\.5"):
        PruneMagnitudeConfig(ramp_start=0.7, ramp_end=0.5)


def test_exactly_the_globally_smallest_weights_are_zeroed(classification: Task) -> None:
    teacher = toy_teacher(classification)
    with torch.no_grad():
        teacher.bert.encoder.layer[0].attention.self.query.weight.mul_(1e-3)  # global: this matrix goes first
    student = PruneMagnitude().compress(teacher, [], classification)
    raise_sparsity(student, 0.3, sample=1)
    before, after = weights(teacher), weights(student)
    smallest = before.abs().argsort()[: round(0.3 * before.numel())]
    expected = before.clone()
    expected[smallest] = 0
    torch.testing.assert_close(after, expected, rtol=0, atol=0)
    assert student.bert.encoder.layer[0].attention.self.query.weight.count_nonzero() == 0


def test_masks_follow_the_progress_then_stay(classification: Task) -> None:
    teacher, batch = toy_teacher(classification), toy_batches(classification)[0]
    method = PruneMagnitude(PruneMagnitudeConfig(keep=0.4, ramp_start=0.0, ramp_end=0.5))
    student = method.compress(teacher, [], classification)
    (stage,) = method.stages(teacher, student, classification)
    optimizer = torch.optim.AdamW([p for p in stage.objective.parameters() if p.requires_grad], lr=1e-2)
    zeros, shares = [weights(student) == 0], []
    for progress in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0):
        stage.objective.progress.fill_(progress)
        stage.objective.refresh()
        torch.stack(list(stage.objective(batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        zeros.append(weights(student) == 0)
        shares.append(zeros[-1].float().mean().item())
        assert not (zeros[-2] & ~zeros[-1]).any(), "a zero came back"
    expected = [method.config.sparsity(p) for p in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)]
    assert shares == pytest.approx(expected, abs=0.01)
    assert torch.equal(zeros[-1], zeros[-3])


def test_the_checkpoint_is_an_ordinary_bert_with_exact_zeros(classification: Task, tmp_path: Path) -> None:
    teacher, batch = toy_teacher(classification), toy_batches(classification)[0]
    method = PruneMagnitude(PruneMagnitudeConfig(keep=0.25))
    student = method.compress(teacher, [], classification)
    final = method.finalize(student, method.stages(teacher, student, classification)).eval()
    final.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.model_type == "bert"
    assert again.state_dict().keys() == teacher.state_dict().keys()
    assert (weights(again) != 0).sum() == weights(teacher).numel() * 0.25
    assert (again.bert.embeddings.word_embeddings.weight[1:] != 0).all()
    torch.testing.assert_close(again(**batch).logits, final(**batch).logits, rtol=0, atol=0)
