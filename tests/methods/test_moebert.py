"""What the method adds to the library: its knobs, terms, weights and training data."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.tasks.task import Task
from bench.toys import toy_batches, toy_teacher
from methods.moebert import MoEBert, MoEBertMethodConfig, token_frequency


def stage(task: Task, **knobs: Any) -> Any:
    teacher, method = toy_teacher(task), MoEBert(MoEBertMethodConfig(**knobs))
    student = method.compress(teacher, toy_batches(task), task).eval()
    (only,) = method.stages(teacher, student, task)
    return only.objective


def test_every_knob_of_the_model_reaches_its_configuration(classification: Task) -> None:
    knobs: dict[str, Any] = {
        "num_experts": 3,
        "expert_intermediate_size": 24,
        "shared_neurons": 8,
        "routing": "gate-sentence",
        "routing_seed": 5,
        "expert_dropout": 0.3,
    }
    config = stage(classification, **knobs).student.config
    assert {name: getattr(config, name) for name in knobs} == knobs


def test_the_defaults_are_the_papers_shares_of_the_teacher(classification: Task) -> None:
    config = stage(classification).student.config
    assert (config.num_experts, config.expert_size, config.shared_size) == (4, 128 // 4, 128 // 6)


@pytest.mark.parametrize(
    ("distill", "terms"),
    [
        ("all", {"labels", "layers", "prediction"}),
        ("every-other", {"labels", "layers", "prediction"}),
        ("last", {"labels", "layers", "prediction"}),
        ("prediction", {"labels", "prediction"}),
        ("none", {"labels"}),
    ],
)
def test_the_ablations_of_distillation_leave_their_terms_out(
    classification: Task, distill: str, terms: set[str]
) -> None:
    objective = stage(classification, distill=distill, distill_weight=3.0)
    assert objective(toy_batches(classification)[0]).keys() == terms
    assert objective.weights == dict.fromkeys(terms - {"labels"}, 3.0)


def test_fewer_matched_layers_are_a_smaller_sum(classification: Task) -> None:
    batch = toy_batches(classification)[0]
    sums = [stage(classification, distill=d)(batch)["layers"] for d in ("all", "every-other", "last")]
    assert sums[0] > sums[1] > sums[2] > 0


@pytest.mark.parametrize("routing", ["gate-token", "gate-sentence"])
def test_the_balance_of_gates_is_a_term_of_its_own(classification: Task, routing: str) -> None:
    objective, batch = (
        stage(classification, routing=routing, balance_weight=0.2),
        toy_batches(classification)[0],
    )
    terms = objective(batch)
    assert objective.weights["balance"] == 0.2
    assert terms["balance"] > 0
    logits = objective.student(**{name: value for name, value in batch.items() if name != "labels"}).logits
    torch.testing.assert_close(
        terms["labels"],
        torch.nn.functional.cross_entropy(logits, batch["labels"]),
        msg="labels hold no balance",
    )


def test_regression_matches_scores(regression: Task) -> None:
    objective, batch = stage(regression), toy_batches(regression)[0]
    student, teacher = objective.student(**batch).logits, objective.teacher(**batch).logits
    torch.testing.assert_close(objective(batch)["prediction"], torch.nn.functional.mse_loss(student, teacher))


@pytest.mark.parametrize("distill", ["all", "none"])
def test_a_dense_teacher_in_training_mode_is_not_listened_to(classification: Task, distill: str) -> None:
    objective, batch = stage(classification, distill=distill), toy_batches(classification)[0]
    before = objective(batch)
    objective.train()
    objective.student.eval()
    after = objective(batch)
    for name in before:
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=0)


def test_token_frequency_counts_training_tokens_without_padding(classification: Task) -> None:
    batches = toy_batches(classification)
    counts = token_frequency(batches, 100)
    tokens = [
        token
        for batch in batches
        for row, length in zip(batch["input_ids"], batch["attention_mask"].sum(dim=1), strict=True)
        for token in row[:length].tolist()
    ]
    assert counts.tolist() == [tokens.count(token) for token in range(100)]


def test_balanced_hash_balances_the_training_tokens(classification: Task) -> None:
    student = stage(classification, routing="hash-balanced").student
    counts = token_frequency(toy_batches(classification), 100)
    loads = torch.zeros(4).index_add(0, student.bert.router.table[0], counts.float())
    assert loads.max() / loads.mean() < 1.05
