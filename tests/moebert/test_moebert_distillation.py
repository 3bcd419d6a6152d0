from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

from moebert.distillation import distillation_losses, layer_loss, matched_states, span_kl, symmetric_kl


def states(layers: int = 4) -> list[Tensor]:
    return list(torch.randn(layers + 1, 3, 5, 6, dtype=torch.float64))


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])


def test_layer_loss_by_hand_over_tokens_that_are_not_padding() -> None:
    student, teacher = states(), states()
    expected = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        squares = [
            float((ours[sample, token, unit] - theirs[sample, token, unit]) ** 2)
            for sample in range(3)
            for token in range(5)
            for unit in range(6)
            if MASK[sample, token]
        ]
        expected += sum(squares) / len(squares)
    assert float(layer_loss(student, teacher, MASK)) == pytest.approx(expected, rel=1e-12)


def test_layer_loss_over_all_positions_is_the_sum_of_torchs_mse() -> None:
    student, teacher = states(), states()
    expected = sum(F.mse_loss(ours, theirs) for ours, theirs in zip(student, teacher, strict=True))
    torch.testing.assert_close(layer_loss(student, teacher, None), expected)


def test_padding_may_hold_anything() -> None:
    student, teacher = states(), states()
    before = layer_loss(student, teacher, MASK)
    for state in student:
        state[MASK == 0] = 1e6
    assert torch.equal(layer_loss(student, teacher, MASK), before)


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [
        ("all", 4, [0, 1, 2, 3, 4]),
        ("every-other", 4, [0, 2, 4]),
        ("every-other", 5, [1, 3, 5]),
        ("last", 4, [4]),
        ("none", 4, []),
    ],
)
def test_which_states_are_matched(layers: Any, depth: int, expected: list[int]) -> None:
    assert matched_states(depth, layers) == expected


def test_only_the_chosen_layers_matter() -> None:
    student, teacher = states(), states()
    student[1] = teacher[1] + 1e3
    expected = sum(layer_loss([student[i]], [teacher[i]], MASK) for i in (0, 2, 4))
    torch.testing.assert_close(layer_loss(student, teacher, MASK, layers="every-other"), expected)
    torch.testing.assert_close(
        layer_loss(student, teacher, MASK, layers="last"), layer_loss([student[4]], [teacher[4]], MASK)
    )


def test_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="5 hidden states and the teacher 4"):
        layer_loss(states(4), states(3), None)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_symmetric_kl_by_hand() -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = 0.0
    for ours, theirs in zip(student.softmax(1).tolist(), teacher.softmax(1).tolist(), strict=True):
        expected += (kl(ours, theirs) + kl(theirs, ours)) / 2 / 3
    assert float(symmetric_kl(student, teacher)) == pytest.approx(expected, rel=1e-12)
    assert float(symmetric_kl(teacher, student)) == pytest.approx(expected, rel=1e-12)
    assert float(symmetric_kl(student, student)) == 0


def test_half_precision_logits_are_compared_in_single_precision() -> None:
    student, teacher = torch.randn(2, 64, 3)
    exact = symmetric_kl(student.bfloat16().double(), teacher.bfloat16().double())
    found = symmetric_kl(student.bfloat16(), teacher.bfloat16())
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(exact), rel=1e-5)


def test_span_kl_averages_start_and_end_and_leaves_padding_out() -> None:
    starts, ends = torch.randn(2, 2, 3, 5, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for ours, theirs in (starts, ends):
        for sample, length in enumerate(MASK.sum(1).tolist()):
            expected = expected + symmetric_kl(
                ours[sample : sample + 1, :length], theirs[sample : sample + 1, :length]
            )
    found = span_kl((starts[0], ends[0]), (starts[1], ends[1]), MASK)
    torch.testing.assert_close(found, expected / 3 / 2, rtol=1e-12, atol=0)
    unmasked = (symmetric_kl(starts[0], starts[1]) + symmetric_kl(ends[0], ends[1])) / 2
    torch.testing.assert_close(span_kl((starts[0], ends[0]), (starts[1], ends[1]), None), unmasked)


def classified(seed: int) -> SequenceClassifierOutput:
    torch.manual_seed(seed)
    return SequenceClassifierOutput(
        logits=torch.randn(3, 4, dtype=torch.float64), hidden_states=tuple(states())
    )


def test_the_terms_are_those_asked_for() -> None:
    student, teacher = classified(1), classified(2)
    both = distillation_losses(student, teacher, MASK)
    assert both.keys() == {"layers", "prediction"}
    assert torch.equal(both["layers"], layer_loss(student.hidden_states, teacher.hidden_states, MASK))
    assert torch.equal(both["prediction"], symmetric_kl(student.logits, teacher.logits))
    assert distillation_losses(student, teacher, MASK, layers="none").keys() == {"prediction"}
    assert distillation_losses(student, teacher, MASK, prediction=False).keys() == {"layers"}
    assert distillation_losses(student, teacher, MASK, layers="none", prediction=False) == {}


def test_all_positions_is_the_codes_variant_by_name() -> None:
    student, teacher = classified(1), classified(2)
    found = distillation_losses(student, teacher, MASK, positions="all")["layers"]
    assert torch.equal(found, layer_loss(student.hidden_states, teacher.hidden_states, None))


def test_scores_are_matched_by_mse() -> None:
    student, teacher = classified(1), classified(2)
    found = distillation_losses(student, teacher, MASK, regression=True)["prediction"]
    assert torch.equal(found, F.mse_loss(student.logits, teacher.logits))


def test_spans_are_recognised() -> None:
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        starts, ends = torch.randn(2, 3, 5)
        outputs.append(QuestionAnsweringModelOutput(start_logits=starts, end_logits=ends))
    student, teacher = outputs
    found = distillation_losses(student, teacher, MASK, layers="none")["prediction"]
    pairs = [(one.start_logits, one.end_logits) for one in outputs]
    assert torch.equal(found, span_kl(pairs[0], pairs[1], MASK))


@pytest.mark.parametrize("option", [{"layers": "some"}, {"positions": "padding"}])
def test_an_unknown_option_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown option .*; known: "):
        distillation_losses(classified(1), classified(2), MASK, **option)


def test_gradients_reach_the_student_and_spare_a_frozen_teacher(
    make_teacher: Any, make_batch: Any, routing: str
) -> None:
    from moebert import MoEBertConfig, adapt

    teacher, batch = make_teacher().requires_grad_(False), make_batch()
    student = adapt(
        teacher,
        MoEBertConfig.from_bert(teacher.config, routing=routing),
        strategy="random",
        token_frequency=torch.ones(97),
    )
    assert all(parameter.requires_grad for parameter in student.parameters())
    outputs = [model(**batch, output_hidden_states=True) for model in (student, teacher)]
    losses = distillation_losses(*outputs, batch["attention_mask"])
    sum(losses.values()).backward()
    assert all(float(loss.detach()) > 0 for loss in losses.values())
    assert student.bert.encoder.layer[0].experts.up_weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
