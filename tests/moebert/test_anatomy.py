"""What an anatomy measures, against dumb loops, planted specialisation and experts that are all the same."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from planted import EXPERT, LAYER, OTHER, planted, with_equal_experts
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert import MoEBertConfig, adapt, routing_statistics
from moebert.adaptation import expert_layers
from moebert.anatomy import dissect
from moebert.anatomy.labels import label_association
from moebert.anatomy.outputs import expert_outputs, linear_cka
from moebert.anatomy.replay import record, replaced, replay
from moebert.anatomy.weights import cut_from, expert_neurons, initial_neurons, movement, sibling_cosines

GOOD, BAD, WORDS = (5, 6, 7), (8, 9, 10), 30


def outputs_of(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    inputs = {name: value for name, value in batch.items() if value.dim() == 2}
    with torch.no_grad():
        outputs = model(**inputs)
    return (outputs.logits,) if "logits" in outputs else (outputs.start_logits, outputs.end_logits)


def reviews(rows: int = 60) -> list[dict[str, Tensor]]:
    """Make sentences with one good or bad word among fillers; batches of 20, padded."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(rows // 20):
        labels = torch.randint(2, (20,), generator=generator)
        lengths = torch.randint(5, 11, (20, 1), generator=generator)
        mask = (torch.arange(10) < lengths).long()
        ids = torch.randint(11, WORDS, (20, 10), generator=generator)
        ids[:, 0] = 2
        word = torch.randint(3, (20,), generator=generator)
        ids[:, 3] = torch.where(labels == 1, torch.tensor(GOOD)[word], torch.tensor(BAD)[word])
        batches.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})
    return batches


def accuracy(logits: list[tuple[Tensor, ...]], batches: list[dict[str, Tensor]]) -> float:
    said = torch.cat([sides[0] for sides in logits]).argmax(1)
    return float((said == torch.cat([batch["labels"] for batch in batches])).double().mean())


# Running on from a layer, and replacing an expert


def test_a_batch_replayed_from_any_layer_gives_the_models_logits(make_student, make_batch, routing, head):
    student, batch = make_student(routing, head), make_batch(head)
    with torch.no_grad():
        recording = record(student, batch)
        again = [replay(student, recording, layer) for layer in range(3)]
    for sides in (recording.logits, *again):
        for ours, theirs in zip(sides, outputs_of(student, batch), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@torch.no_grad()
def overwritten(student: Any, layer: int, expert: int, sibling: int) -> Any:
    """Copy a student and overwrite an expert with a sibling: the dumb way of replacing it."""
    student = deepcopy(student)
    for parameter in expert_layers(student)[layer].parameters():
        parameter[expert] = parameter[sibling]
    return student


def test_a_replaced_expert_is_one_overwritten_by_a_sibling_each_row_in_turn(
    make_student, make_batch, routing, head
):
    student = make_student(routing, head, num_experts=3)
    batches = [make_batch(head), make_batch(head, batch=5)]
    found = dissect(student, batches)
    for layer, expert in product(range(3), range(3)):
        dumb = [overwritten(student, layer, expert, (expert + 1 + step) % 3) for step in range(2)]
        turn = 0
        for batch, sides in zip(batches, found.replaced[layer, expert], strict=True):
            expected = [outputs_of(model, batch) for model in dumb]
            for row, mask in enumerate(batch["attention_mask"].bool()):
                real = mask if head == "span" else slice(None)
                for side, other in zip(sides, expected[turn % 2], strict=True):
                    torch.testing.assert_close(side[row][real], other[row][real], rtol=0, atol=1e-11)
                turn += 1


def test_replacing_ends_with_the_block(make_student, make_batch, routing):
    student, batch = make_student(routing), make_batch()
    before = outputs_of(student, batch)[0]
    experts = expert_layers(student)[0]
    with torch.no_grad():
        recording = record(student, batch)
        expert = int(recording.assignment[0, 0])
        siblings = torch.full_like(recording.assignment[0], (expert + 1) % 4)
        with replaced(experts, expert, siblings):
            assert not torch.equal(replay(student, recording, 0)[0], before)
    assert torch.equal(outputs_of(student, batch)[0], before)


# The pass over the text


def test_visits_and_counts_are_those_of_the_router_without_padding(make_student, make_batch, routing):
    student, batches = make_student(routing), [make_batch(), make_batch(batch=3)]
    found = dissect(student, batches)
    assert torch.equal(found.routing.counts, routing_statistics(student, batches).counts)
    rows = [
        (batch["input_ids"][row], batch["attention_mask"][row])
        for batch in batches
        for row in range(len(batch["input_ids"]))
    ]
    assert found.visits.sum((1, 2)).tolist() == [3 * int(mask.sum()) for _, mask in rows]
    if routing.startswith("hash"):
        for (ids, mask), visits in zip(rows, found.visits, strict=True):
            for layer in range(3):
                table = student.bert.router.table[layer]
                visited = [int(table[token]) for token, real in zip(ids, mask, strict=True) if real]
                assert visits[layer].tolist() == [visited.count(expert) for expert in range(4)]


def test_padding_changes_nothing(make_student, make_batch, routing):
    student, batch = make_student(routing), make_batch(batch=2)
    longer = {
        name: F.pad(value, (0, 4)) if value.dim() == 2 else value for name, value in batch.items()
    }  # fmt: skip
    one, other = (dissect(student, [inputs]) for inputs in (batch, longer))
    assert torch.equal(one.visits, other.visits)
    torch.testing.assert_close(one.output_cka, other.output_cka, rtol=0, atol=1e-9)
    for expert, sides in one.replaced.items():
        torch.testing.assert_close(sides[0][0], other.replaced[expert][0][0], rtol=0, atol=1e-9)


def test_a_dissection_leaves_model_and_generator_as_they_were(make_student, make_batch, restored_generator):
    state = torch.get_rng_state()
    student, batch = make_student("gate-token").train(), make_batch()
    torch.set_rng_state(state)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    dissect(student, [batch])
    assert student.training
    assert not any(module._forward_pre_hooks for module in student.modules())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_outputs_are_of_a_sample_spread_over_the_text(make_student, make_batch):
    student, batches = make_student("hash-random"), [make_batch(), make_batch()]
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert dissect(student, batches).output_tokens == tokens
    assert dissect(student, batches, sample=20).output_tokens == math.ceil(tokens / math.ceil(tokens / 20))


def test_nothing_to_read_is_an_error(make_student, make_batch):
    batch = make_batch()
    batch["attention_mask"] = torch.zeros_like(batch["attention_mask"])
    with pytest.raises(ValueError, match="at least one token"):
        dissect(make_student("hash-random"), [batch])


def test_one_expert_has_no_sibling_and_values_of_regression_are_no_labels(make_student, make_batch):
    found = dissect(make_student("hash-random", "regression", num_experts=1), [make_batch("regression")])
    assert found.replaced == {}
    assert found.labels is None


# Weights


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b / (a.norm() * b.norm())).detach())


def test_movement_is_that_of_each_neuron_from_the_teachers(make_teacher):
    teacher = make_teacher()
    config = MoEBertConfig.from_bert(teacher.config)
    student = adapt(teacher, config, strategy="random")
    pairs = list(zip(expert_layers(student), cut_from(student, teacher), strict=True))
    for experts, dense in pairs:
        assert torch.equal(expert_neurons(experts), initial_neurons(experts, dense))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for experts, dense in pairs:
        cosines, distances = movement(expert_neurons(experts), initial_neurons(experts, dense))
        up, down = dense.intermediate.dense, dense.output.dense
        for expert in range(4):
            pairs = []
            for place, neuron in enumerate(experts.neuron_indices[expert].tolist()):
                ours = (experts.up_weight[expert, :, place], experts.up_bias[expert, place, None],
                        experts.down_weight[expert, place])  # fmt: skip
                theirs = (up.weight[neuron], up.bias[neuron, None], down.weight[:, neuron])
                pairs.append((torch.cat(ours), torch.cat(theirs)))
            mean = sum(cosine(*pair) for pair in pairs) / len(pairs)
            moved = math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs))
            length = math.sqrt(sum(float(b.detach().square().sum()) for _, b in pairs))
            assert cosines[expert].item() == pytest.approx(mean, abs=1e-12)
            assert distances[expert].item() == pytest.approx(moved / length, abs=1e-12)


def test_a_teacher_that_is_not_the_experts_own_is_refused(make_teacher, make_student, make_batch):
    student = make_student("hash-random")
    with pytest.raises(ValueError, match=r"config.intermediate_size is 48 but the teacher's is 64"):
        dissect(student, [make_batch()], teacher=make_teacher(intermediate_size=64))
    expert_layers(student)[1].neuron_indices[0, 0] = -1
    with pytest.raises(ValueError, match="not cut from a dense model"):
        dissect(student, [make_batch()], teacher=make_teacher())


def test_siblings_are_compared_neuron_by_neuron():
    neurons = torch.randn(3, 5, 7, dtype=torch.float64)
    indices = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 5, 6, 7], [8, 9, 10, 11, 12]])
    shared, own = sibling_cosines(neurons, indices)
    for a, b in product(range(3), range(3)):
        both = [
            cosine(neurons[a, i], neurons[b, j])
            for i, j in product(range(5), range(5))
            if indices[a, i] == indices[b, j]
        ]
        assert shared[a, b].item() == pytest.approx(sum(both) / len(both) if both else math.nan, nan_ok=True)
        ours = [i for i in range(5) if indices[a, i] not in indices[b]]
        theirs = [j for j in range(5) if indices[b, j] not in indices[a]]
        if not ours:
            assert own[a, b].isnan()
            continue
        there = [max(cosine(neurons[a, i], neurons[b, j]) for j in theirs) for i in ours]
        back = [max(cosine(neurons[a, i], neurons[b, j]) for i in ours) for j in theirs]
        expected = (sum(there) / len(there) + sum(back) / len(back)) / 2
        assert own[a, b].item() == pytest.approx(expected, abs=1e-12)


# Outputs


def test_outputs_are_what_each_expert_adds_to_the_residual(make_student):
    experts = expert_layers(make_student("hash-random"))[0]
    tokens = torch.randn(9, 16, dtype=torch.float64)
    with torch.no_grad():
        outputs = expert_outputs(experts, tokens)
        for expert, token in product(range(4), range(9)):
            hidden = F.gelu(tokens[token] @ experts.up_weight[expert] + experts.up_bias[expert])
            expected = hidden @ experts.down_weight[expert] + experts.down_bias[expert]
            torch.testing.assert_close(outputs[expert, token], expected, rtol=0, atol=1e-12)


def test_cka_is_the_cosine_of_centred_similarity_matrices():
    outputs = torch.randn(3, 20, 6, dtype=torch.float64)
    centring = torch.eye(20, dtype=torch.float64) - 1 / 20
    grams = [centring @ x @ x.T @ centring for x in outputs]
    found = linear_cka(outputs)
    for a, b in product(range(3), range(3)):
        assert found[a, b].item() == pytest.approx(cosine(grams[a].flatten(), grams[b].flatten()), abs=1e-12)


def test_cka_sees_no_rotation_scale_or_shift_and_no_kinship_of_strangers():
    x = torch.randn(3000, 6, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    found = linear_cka(torch.stack([x, 3 * x @ rotation + 1, torch.randn_like(x), torch.ones_like(x)]))
    assert found[0, 1].item() == pytest.approx(1, abs=1e-12)
    assert found[0, 2] < 0.01
    assert found[0, 3].isnan()


# Labels


def test_lift_and_information_are_counted_token_by_token():
    visits = torch.randint(0, 5, (12, 2, 3))
    labels = torch.randint(0, 2, (12,))
    found = label_association(visits, labels, 2, shuffles=5)
    for layer in range(2):
        tokens = [
            (expert, int(labels[row]))
            for row in range(12)
            for expert in range(3)
            for _ in range(int(visits[row, layer, expert]))
        ]
        total, information = len(tokens), 0.0
        for expert, label in product(range(3), range(2)):
            both = tokens.count((expert, label))
            of_expert = sum(token[0] == expert for token in tokens)
            of_label = sum(token[1] == label for token in tokens)
            assert found.counts[layer, expert, label] == both
            lift = (both / of_expert) / (of_label / total)
            assert found.lift[layer, expert, label].item() == pytest.approx(lift)
            information += both / total * math.log2(lift) if both else 0.0
        assert found.information[layer].item() == pytest.approx(information)


def test_the_p_value_counts_the_shuffles_that_tell_as_much():
    visits, labels = torch.tensor([[[2, 0]], [[2, 0]], [[0, 2]], [[0, 2]]]), torch.tensor([0, 0, 1, 1])
    found = label_association(visits, labels, 2, shuffles=2000)
    assert found.information.item() == pytest.approx(1)
    # of the six ways to give two of four rows the label 1, two tell the label for sure
    assert found.p_value.item() == pytest.approx(2 / 6, abs=0.04)
    assert found.chance_low.amin() == 0
    assert found.chance_high.amax() == 2


def test_a_p_value_counts_the_real_labels_too_and_is_never_0():
    labels = torch.arange(40) % 2
    found = label_association(F.one_hot(labels, 2)[:, None], labels, 2, shuffles=99)
    assert found.p_value.item() == pytest.approx(1 / 100)


def test_tokens_of_one_row_are_not_taken_for_independent_witnesses():
    """Rows send nearly all of their tokens one way, whatever their label; chi-square over tokens would cry wolf."""
    alarms = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        favourite = torch.randint(2, (60,), generator=generator)
        visits = F.one_hot(favourite, 2)[:, None] * 20 + 1
        labels = torch.randint(2, (60,), generator=generator)
        alarms += bool(label_association(visits, labels, 2, shuffles=200).p_value < 0.05)
    assert alarms <= 6


# Planted specialisation, and none


def test_planted_specialisation_is_found_where_it_is():
    model, batches = planted(WORDS, GOOD, BAD), reviews()
    found = dissect(model, batches)
    whole = accuracy(found.logits, batches)
    assert whole == 1
    drops = {place: whole - accuracy(logits, batches) for place, logits in found.replaced.items()}
    assert drops.pop((LAYER, EXPERT)) > 0.3
    assert set(drops.values()) == {0.0}
    others = [expert for expert in range(4) if expert != EXPERT]
    assert all(found.output_cka[LAYER, EXPERT, other] < 0.5 for other in others)
    assert all(found.own_cosine[LAYER, EXPERT, other] < 0.8 for other in others)


def test_a_planted_label_is_found_with_the_expert_that_serves_it():
    found = dissect(planted(WORDS, GOOD, BAD, split=True), reviews()).labels
    share = found.counts[LAYER, EXPERT, 1] / found.counts[LAYER, EXPERT].sum()
    assert share == 1
    assert found.lift[LAYER, EXPERT, 1] > found.chance_high[LAYER, EXPERT, 1]
    assert found.lift[LAYER, OTHER, 0] > found.chance_high[LAYER, OTHER, 0]
    assert found.p_value[LAYER] < 0.01
    assert found.information[LAYER] > 5 * found.chance_information[LAYER]


def test_where_all_experts_are_equal_nothing_is_found():
    model, batches = with_equal_experts(planted(WORDS, GOOD, BAD)), reviews()
    fair = torch.Generator().manual_seed(3)
    for batch in batches:
        batch["labels"] = torch.randint(2, (20,), generator=fair)
    found = dissect(model, batches)
    for logits in found.replaced.values():
        for ours, theirs in zip(logits, found.logits, strict=True):
            torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-6)
    first = found.output_cka[LAYER]  # the second layer's experts say nothing at all
    torch.testing.assert_close(first, torch.ones_like(first), rtol=0, atol=1e-9)
    assert found.own_cosine[LAYER].min() == pytest.approx(1, abs=1e-6)
    assert found.labels.p_value.min() > 0.05
