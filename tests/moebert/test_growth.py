from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moebert import MoEBertConfig, adapt, grow, routing_statistics
from moebert.adaptation import expert_layers
from moebert.gate_growth import gate_inputs


def stacked(model: Any) -> list[dict[str, Tensor]]:
    return [
        {name: value.clone() for name, value in layer.state_dict().items()} for layer in expert_layers(model)
    ]


@pytest.mark.parametrize("from_teacher", [False, True])
def test_old_experts_and_all_else_stay_bit_for_bit(
    make_student: Any, make_teacher: Any, routing: str, head: str, from_teacher: bool
) -> None:
    student = make_student(routing, head, num_experts=3, shared_neurons=8, expert_intermediate_size=12)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    source = {"teacher": make_teacher(head), "importance": torch.rand(3, 48)} if from_teacher else {}
    grown = grow(student, num_experts=7, **source)
    assert type(grown) is type(student)
    assert grown.config.num_experts == 7
    own = grown.state_dict()
    for name, value in before.items():
        assert torch.equal(student.state_dict()[name], value), f"the student's own {name} moved"
        if not name.endswith("router.table"):
            assert torch.equal(own[name][: len(value)], value), name


def test_active_compute_is_unchanged(make_student: Any, routing: str) -> None:
    from moebert.cost import count_parameters, multiply_adds

    student = make_student(routing)
    grown = grow(student, num_experts=8)
    gate_rows = 0 if routing.startswith("hash") else 3 * 4 * 16
    before, after = count_parameters(student.config), count_parameters(grown.config)
    assert after.effective == before.effective + gate_rows
    per_row = {"gate-token": 20, "gate-sentence": 1}.get(routing, 0)
    assert multiply_adds(grown.config, 20) == multiply_adds(student.config, 20) + gate_rows * per_row
    assert grown.bert.encoder.layer[0].experts.up_weight.shape == (8, 16, 12)


@pytest.mark.parametrize("new", [5, 8, 13])
def test_a_hash_gives_up_a_share_of_its_vocabulary_to_the_new_experts(make_student: Any, new: int) -> None:
    student = make_student("hash-random")
    old_table, table = student.bert.router.table, grow(student, num_experts=new).bert.router.table
    moved = table != old_table
    assert (table[moved] >= 4).all()
    assert (table[~moved] < 4).all()
    for row in table:
        counts = torch.bincount(row, minlength=new)
        assert counts.min() >= 97 / new / 2.5
        assert counts.max() <= 97 / new * 2.5


def test_the_busiest_expert_is_split_and_its_common_ids_are_shared_out(make_student: Any) -> None:
    student = make_student("hash-random")
    frequency = torch.zeros(97, dtype=torch.int64)
    busy = student.bert.router.table[0] == 2
    # every second id is common: dealing ids out in their own order would not do
    frequency[busy] = torch.tensor([1000, 10]).repeat(97)[: int(busy.sum())]
    grown = grow(student, num_experts=5, token_frequency=frequency)
    old_row, row = student.bert.router.table[0], grown.bert.router.table[0]
    assert (old_row[row == 4] == 2).all()
    loads = torch.zeros(5, dtype=torch.int64).scatter_add_(0, row, frequency)
    assert abs(int(loads[2] - loads[4])) <= int(frequency.max())


def test_without_a_teacher_new_experts_are_perturbed_copies(make_student: Any) -> None:
    student = make_student("hash-random")
    grown = grow(student, num_experts=6)
    for layer, (experts, old_row) in enumerate(zip(stacked(grown), student.bert.router.table, strict=True)):
        row = grown.bert.router.table[layer]
        for new in (4, 5):
            parent = int(old_row[row == new].unique())
            assert torch.equal(experts["neuron_indices"][new], experts["neuron_indices"][parent])
            for name in ("up_bias", "down_bias", "layernorm_weight", "layernorm_bias"):
                assert torch.equal(experts[name][new], experts[name][parent])
            for name in ("up_weight", "down_weight"):
                copy, parents = experts[name][new], experts[name][parent]
                distance = float((copy - parents).std() / parents.std())
                assert 0.008 < distance < 0.012


def test_an_unperturbed_growth_of_a_hash_changes_no_output(
    make_student: Any, make_batch: Any, hash_routing: str
) -> None:
    student, batch = make_student(hash_routing), make_batch()
    grown = grow(student, num_experts=9, perturbation=0.0)
    torch.testing.assert_close(grown(**batch).logits, student(**batch).logits, rtol=0, atol=1e-12)


def test_with_a_teacher_new_experts_take_the_most_important_free_neurons(make_teacher: Any) -> None:
    teacher, importance = make_teacher(), torch.rand(3, 48)
    config = MoEBertConfig.from_bert(
        teacher.config, num_experts=3, expert_intermediate_size=10, shared_neurons=6
    )
    student = adapt(teacher, config, importance=importance)
    grown = grow(student, num_experts=5, teacher=teacher, importance=importance)
    for layer, experts in enumerate(expert_layers(grown)):
        ranked = importance[layer].argsort(descending=True).tolist()
        held = set(experts.neuron_indices[:3].flatten().tolist())
        free = [neuron for neuron in ranked if neuron not in held]
        assert experts.neuron_indices[3].tolist() == ranked[:6] + free[0:8:2]
        assert experts.neuron_indices[4].tolist() == ranked[:6] + free[1:8:2]
        dense = teacher.bert.encoder.layer[layer]
        neurons = experts.neuron_indices[4]
        assert torch.equal(experts.up_weight[4], dense.intermediate.dense.weight[neurons].t())
        assert torch.equal(experts.down_weight[4], dense.output.dense.weight[:, neurons].t())
        assert torch.equal(experts.layernorm_bias[4], dense.output.LayerNorm.bias)


def test_a_new_gate_row_parts_the_tokens_of_the_busiest_expert(
    make_student: Any, make_batch: Any, gate_routing: str
) -> None:
    student, batches = make_student(gate_routing), [make_batch(batch=64), make_batch(batch=64, length=7)]
    before = routing_statistics(student, batches).load
    grown = grow(student, num_experts=5, batches=batches)
    after = routing_statistics(grown, batches).load[0]  # below, other layers see other inputs than before
    busiest = int(before[0].argmax())
    assert 0.25 < 1 - after[busiest] / before[0, busiest] < 0.75
    for layer, shares in enumerate(before):
        rows = grown.bert.encoder.layer[layer].gate.weight
        assert (rows[:4] - rows[4]).norm(dim=1).argmin() == shares.argmax()


def winning_probability(model: Any, batch: dict[str, Tensor]) -> float:
    logits = model(**batch).router_logits[0]
    return float(logits.detach().softmax(-1).amax(-1).mean())


def test_a_new_gate_row_keeps_the_winning_probability_where_a_like_one_would_shrink_it(
    make_student: Any, make_batch: Any, gate_routing: str
) -> None:
    student, batch = make_student(gate_routing), make_batch(batch=64)
    grown = grow(student, num_experts=5, batches=[batch])
    before, after = winning_probability(student, batch), winning_probability(grown, batch)
    gate, busiest = (
        grown.bert.encoder.layer[0].gate,
        int(routing_statistics(student, [batch]).load[0].argmax()),
    )
    with torch.no_grad():
        gate.weight[4] = gate.weight[busiest]
    assert abs(after / before - 1) < 0.1
    assert winning_probability(grown, batch) < 0.85 * before


def test_without_batches_the_tokens_are_drawn_as_the_layer_norm_spreads_them(
    make_student: Any, gate_routing: str
) -> None:
    student = make_student(gate_routing)
    layer, generator = student.bert.encoder.layer[0], torch.Generator().manual_seed(1)
    norm = layer.attention.output.LayerNorm
    drawn = torch.randn(5000, 16, generator=generator, dtype=torch.float64) * norm.weight + norm.bias
    busiest = torch.bincount((drawn @ layer.gate.weight.t()).argmax(1), minlength=4).argmax()
    rows = grow(student, num_experts=5).bert.encoder.layer[0].gate.weight
    assert (rows[:4] - rows[4]).norm(dim=1).argmin() == busiest
    moved = ((drawn @ rows.t()).argmax(1) == 4).double().mean()
    assert 0.05 < moved < 0.6


def test_the_sample_of_gate_inputs_is_even_and_bounded(
    make_student: Any, make_batch: Any, gate_routing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, batches = make_student(gate_routing).train(), [make_batch() for _ in range(30)]
    everything = gate_inputs(student, batches)
    assert student.training
    expected = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert len(everything[0]) == (30 * 6 if gate_routing == "gate-sentence" else expected)
    winners = (everything[0] @ student.bert.encoder.layer[0].gate.weight.t()).argmax(1)
    if gate_routing == "gate-token":
        counts = routing_statistics(student, batches).load[0] * expected
        torch.testing.assert_close(torch.bincount(winners, minlength=4).double(), counts)
    monkeypatch.setattr("moebert.gate_growth.SAMPLE", 25)
    sample = gate_inputs(student, batches)
    assert 25 <= len(sample[0]) <= 50 + len(everything[0]) // 30
    rows = {tuple(row.tolist()) for row in everything[2]}
    assert all(tuple(row.tolist()) in rows for row in sample[2])


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "batches are empty"),
        ([{"input_ids": torch.tensor([[5]])}], "tokens are all alike: give batches of more and other tokens"),
    ],
)
def test_too_few_tokens_for_a_gate_are_refused(
    make_student: Any, gate_routing: str, batches: list[dict[str, Tensor]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        grow(make_student(gate_routing), num_experts=5, batches=batches)


def test_growing_is_repeatable(make_student: Any, routing: str) -> None:
    student = make_student(routing)
    torch.manual_seed(1)
    first = grow(student, num_experts=6).state_dict()
    torch.manual_seed(2)
    second = grow(student, num_experts=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("new", [4, 3, 65, 4.5, None])
def test_fewer_or_too_many_experts_are_refused(make_student: Any, new: Any) -> None:
    with pytest.raises(ValueError, match=f"num_experts is {new}; 4 experts can grow to 5 … 64"):
        grow(make_student("hash-random"), num_experts=new)


def test_too_few_free_neurons_are_refused_with_what_fits(make_teacher: Any) -> None:
    teacher, importance = make_teacher(), torch.rand(3, 48)
    config = MoEBertConfig.from_bert(teacher.config, expert_intermediate_size=12, shared_neurons=8)
    student = adapt(teacher, config, importance=importance)
    with pytest.raises(
        ValueError, match="8 new experts need 32 neurons that no expert holds and 24 are left; up to 6 new"
    ):
        grow(student, num_experts=12, teacher=teacher, importance=importance)
    grown = grow(student, num_experts=10, teacher=teacher, importance=importance)
    with pytest.raises(
        ValueError, match="1 new experts need 4 neurons that no expert holds and 0 are left; any number fits"
    ):
        grow(grown, num_experts=11, teacher=teacher, importance=importance)
    grow(grown, num_experts=11)


def test_a_teacher_without_importance_is_refused(make_student: Any, make_teacher: Any) -> None:
    with pytest.raises(ValueError, match="together"):
        grow(make_student("hash-random"), num_experts=6, teacher=make_teacher())


def test_a_token_frequency_of_the_wrong_shape_is_refused(make_student: Any) -> None:
    with pytest.raises(ValueError, match=r"token_frequency has shape \[5\]; it needs \[97\]"):
        grow(make_student("hash-random"), num_experts=6, token_frequency=torch.ones(5))


@pytest.mark.parametrize("frequency", [torch.zeros(97), -torch.ones(97), torch.full((97,), torch.nan)])
def test_a_token_frequency_that_counts_nothing_is_refused(make_student: Any, frequency: Tensor) -> None:
    with pytest.raises(ValueError, match="counts from 0, not all of them 0"):
        grow(make_student("hash-random"), num_experts=6, token_frequency=frequency)


@pytest.mark.parametrize("perturbation", [-0.1, float("nan"), float("inf")])
def test_a_perturbation_that_is_no_size_is_refused(make_student: Any, perturbation: float) -> None:
    with pytest.raises(ValueError, match=f"perturbation is {perturbation}; it must be a finite number"):
        grow(make_student("hash-random"), num_experts=6, perturbation=perturbation)


def test_a_dense_model_does_not_grow(make_teacher: Any) -> None:
    with pytest.raises(ValueError, match="BertForSequenceClassification has no experts"):
        grow(make_teacher(), num_experts=6)


@pytest.mark.parametrize(
    ("routing_name", "option", "said"),
    [
        ("hash-random", {"batches": []}, "by token_frequency alone"),
        ("gate-token", {"token_frequency": torch.ones(97)}, "by batches alone"),
    ],
)
def test_a_measure_that_would_be_ignored_is_refused(
    make_student: Any, routing_name: str, option: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        grow(make_student(routing_name), num_experts=6, **option)
