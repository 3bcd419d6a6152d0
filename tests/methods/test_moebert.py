"""What the method adds to the library: its knobs, terms, weights and training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.matrix import Choice
from bench.plans import configure
from bench.tasks.task import Task
from bench.toys import toy_batches, toy_teacher
from methods.moebert import MoEBert, MoEBertMethodConfig
from moebert import routing_statistics
from moebert.distillation import layer_loss
from moebert.experts import IMPLEMENTATIONS


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


def test_the_positions_whose_hidden_states_are_matched_are_the_knobs(classification: Task) -> None:
    batch = toy_batches(classification)[0]
    assert not batch["attention_mask"].bool().all(), "no padding, no difference"
    for positions, mask in (("non-padding", batch["attention_mask"]), ("all", None)):
        objective = stage(classification, positions=positions)
        ours, theirs = (
            model(**batch, output_hidden_states=True).hidden_states
            for model in (objective.student, objective.teacher)
        )
        torch.testing.assert_close(objective(batch)["layers"], layer_loss(ours, theirs, mask))


@pytest.mark.parametrize("distill", ["all", "none"])
def test_a_dense_teacher_in_training_mode_is_not_listened_to(classification: Task, distill: str) -> None:
    objective, batch = stage(classification, distill=distill), toy_batches(classification)[0]
    before = objective(batch)
    objective.train()
    objective.student.eval()
    after = objective(batch)
    for name in before:
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=0)


def test_balanced_hash_balances_the_training_tokens(classification: Task) -> None:
    student = stage(classification, routing="hash-balanced").student
    counts = toy_batches(classification).token_frequency(100)
    loads = torch.zeros(4).index_add(0, student.bert.router.table[0], counts.float())
    assert loads.max() / loads.mean() < 1.05


def test_sizes_below_one_are_shares_of_the_teachers(classification: Task) -> None:
    config = stage(classification, expert_intermediate_size=0.3, shared_neurons=0.1).student.config
    assert (config.expert_size, config.shared_size) == (round(0.3 * 128), round(0.1 * 128))


@pytest.mark.parametrize(
    ("knob", "value", "least"),
    [
        ("expert_intermediate_size", 0, 1),
        ("expert_intermediate_size", 1.0, 1),
        ("expert_intermediate_size", -0.25, 1),
        ("expert_intermediate_size", True, 1),
        ("expert_intermediate_size", "many", 1),
        ("shared_neurons", -1, 0),
        ("shared_neurons", 256.5, 0),
    ],
)
def test_a_size_that_is_neither_is_refused_in_one_line(knob: str, value: object, least: int) -> None:
    with pytest.raises(UserError) as error:
        configure(Choice(name="moebert", options={knob: value}))
    assert str(error.value) == (
        f"method 'moebert': {knob}: write a whole number of neurons from {least} up, "
        f"or a share of the teacher's between 0 and 1 (got {value!r})"
    )


@pytest.mark.parametrize("knob", ["distill_weight", "balance_weight", "expert_dropout"])
@pytest.mark.parametrize("value", ["nan", ".inf", -1])
def test_a_weight_that_is_no_number_from_0_is_refused_in_one_line(knob: str, value: object) -> None:
    with pytest.raises(UserError) as error:
        configure(Choice(name="moebert", options={knob: value}))
    assert str(error.value).startswith(f"method 'moebert': {knob}: Input should be")
    assert "\n" not in str(error.value)


def test_growing_to_fewer_experts_is_refused() -> None:
    with pytest.raises(UserError, match="grow_to is 4; it must be more than num_experts=4"):
        configure(Choice(name="moebert", options={"grow_to": 4}))


@pytest.mark.parametrize("routing", ["hash-random", "hash-balanced", "gate-token", "gate-sentence"])
@pytest.mark.parametrize("start", ["neurons", "copies"])
def test_a_grown_student_keeps_the_experts_it_had(classification: Task, routing: str, start: str) -> None:
    parent = stage(classification, routing=routing).student
    grown = stage(classification, routing=routing, grow_to=6, grow_from=start).student
    assert grown.config.num_experts == 6
    old, new = parent.bert.encoder.layer[1].experts, grown.bert.encoder.layer[1].experts
    for name, value in old.named_parameters():
        assert torch.equal(new.get_parameter(name)[:4], value)
    held = set(old.neuron_indices.flatten().tolist())
    own = set(new.neuron_indices[4:, 128 // 6 :].flatten().tolist())
    assert own <= held if start == "copies" else not own & held


@pytest.mark.parametrize("adaptation", ["random", "inverse"])
def test_growing_ranks_neurons_whatever_the_adaptation(classification: Task, adaptation: str) -> None:
    grown = stage(classification, adaptation=adaptation, grow_to=5).student
    assert grown.bert.encoder.layer[0].experts.neuron_indices.shape[0] == 5


def test_growth_under_a_gate_goes_by_the_real_load(classification: Task) -> None:
    teacher, batches = toy_teacher(classification), toy_batches(classification)
    parent = MoEBert(MoEBertMethodConfig(routing="gate-token")).compress(teacher, batches, classification)
    busiest = routing_statistics(parent, batches).load.argmax(1).tolist()
    assert set(busiest) != {0}
    config = MoEBertMethodConfig(routing="gate-token", grow_to=5, grow_from="copies")
    grown = MoEBert(config).compress(teacher, batches, classification)
    for layer, expert in zip(grown.bert.encoder.layer, busiest, strict=True):
        assert torch.equal(layer.experts.neuron_indices[4], layer.experts.neuron_indices[expert])


@pytest.mark.parametrize("name", ["auto", "reference", "grouped", "fused"])
def test_the_chosen_implementation_runs_the_experts_also_after_reloading(
    classification: Task, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for known, run in list(IMPLEMENTATIONS.items()):

        def watched(*arguments: Any, known: str = known, run: Any = run) -> Any:
            calls.append(known)
            return run(*arguments)

        monkeypatch.setitem(IMPLEMENTATIONS, known, watched)
    method, batch = MoEBert(MoEBertMethodConfig(experts=name)), toy_batches(classification)[0]
    student = method.compress(toy_teacher(classification), toy_batches(classification), classification).eval()
    student.save_pretrained(tmp_path)
    calls.clear()
    logits = student(**batch).logits
    assert set(calls) == {name}
    calls.clear()
    assert torch.equal(method.load(tmp_path, classification)(**batch).logits, logits)
    assert set(calls) == {name}
