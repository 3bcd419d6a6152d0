from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.errors import UserError
from bench.tasks.task import Task
from bench.toys import toy_batches, toy_teacher
from methods.attention_scores import MASKED, recorded_scores


def test_trap_attentions_of_the_model_come_after_softmax_and_dropout(classification: Task) -> None:
    model = toy_teacher(classification).train()
    batch = toy_batches(classification)[0]
    model.set_attn_implementation("eager")
    attentions = model(**batch, output_attentions=True).attentions
    assert not torch.allclose(attentions[0].sum(dim=-1), torch.ones(()))  # the trap: rows do not sum to 1
    model.eval().set_attn_implementation("sdpa")
    with recorded_scores(model, batch["attention_mask"]) as scores:
        model(**batch)
    model.set_attn_implementation("eager")
    attentions = model(**batch, output_attentions=True).attentions
    assert len(scores) == len(attentions) == 4
    for score, attention in zip(scores, attentions, strict=True):
        torch.testing.assert_close(score.softmax(dim=-1), attention)


def test_padded_keys_score_the_mask_value(classification: Task) -> None:
    model, batch = toy_teacher(classification), toy_batches(classification)[0]
    with recorded_scores(model, batch["attention_mask"]) as scores:
        model(**batch)
    padded = (batch["attention_mask"] == 0)[:, None, None].expand_as(scores[0])
    assert padded.any()
    assert (scores[0][padded] == MASKED).all()


def test_recorded_scores_leave_no_hook_behind(classification: Task) -> None:
    model = toy_teacher(classification)
    with pytest.raises(ZeroDivisionError), recorded_scores(model, torch.ones(1, 4)):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())


def test_scores_need_projections_to_hook(classification: Task) -> None:
    with (
        pytest.raises(UserError, match="Linear has no query and key"),
        recorded_scores(
            nn.Linear(2, 2),  # type: ignore[arg-type]
            torch.ones(1, 2),
        ),
    ):
        pass
