from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM, BertModel

from moebert import (
    MoEBertConfig,
    MoEBertForQuestionAnswering,
    MoEBertForSequenceClassification,
    MoEBertModel,
    adapt,
    grow,
)
from moebert.adaptation import assign_neurons, rank_neurons

EVEN = torch.ones(97)


def neurons_by_the_rule(ranked: list[int], experts: int, size: int, shared: int) -> list[list[int]]:
    """Ranks 1 … s, then s + e, s + e + N, … cut to the size: the paper's text, counting from 1."""
    chosen = []
    for expert in range(1, experts + 1):
        ranks = [*range(1, shared + 1), *range(shared + expert, len(ranked) + 1, experts)]
        chosen.append([ranked[rank - 1] for rank in ranks[:size]])
    return chosen


@given(
    experts=st.integers(1, 9),
    shared=st.integers(0, 12),
    own=st.integers(0, 6),
    left=st.integers(0, 10),
    data=st.data(),
)
def test_experts_hold_the_ranks_of_the_paper(
    experts: int, shared: int, own: int, left: int, data: Any
) -> None:
    size = max(shared + own, 1)
    neurons = shared + experts * (size - shared) + left
    config = MoEBertConfig(
        num_hidden_layers=1,
        intermediate_size=neurons,
        num_experts=experts,
        expert_intermediate_size=size,
        shared_neurons=shared,
    )
    ranked = data.draw(st.permutations(range(neurons)))
    found = assign_neurons(torch.tensor([ranked]), config)
    assert found[0].tolist() == neurons_by_the_rule(list(ranked), experts, size, shared)


def test_the_most_important_neuron_ranks_first_and_of_equal_ones_the_first() -> None:
    config = MoEBertConfig(num_hidden_layers=2, intermediate_size=4, num_experts=1)
    importance = torch.tensor([[0.0, 3.0, 1.0, 2.0], [1.0, 1.0, 2.0, 1.0]])
    assert rank_neurons(config, importance, "importance").tolist() == [[1, 3, 2, 0], [2, 0, 1, 3]]
    assert rank_neurons(config, importance, "inverse").tolist() == [[0, 2, 3, 1], [0, 1, 3, 2]]


def test_a_random_ranking_hangs_on_the_seed_and_the_layer_alone() -> None:
    config = MoEBertConfig(num_hidden_layers=2, intermediate_size=100)
    first = rank_neurons(config, None, "random")
    torch.rand(5)
    assert torch.equal(first, rank_neurons(config, None, "random"))
    assert sorted(first[0].tolist()) == list(range(100))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(
        first,
        rank_neurons(
            MoEBertConfig(num_hidden_layers=2, intermediate_size=100, routing_seed=1), None, "random"
        ),
    )


@pytest.mark.parametrize("strategy", ["importance", "random", "inverse"])
def test_weights_follow_their_neurons(make_teacher: Any, strategy: Any) -> None:
    teacher = make_teacher()
    config = MoEBertConfig.from_bert(teacher.config)
    student = adapt(teacher, config, importance=torch.rand(3, 48), strategy=strategy)
    for dense, layer in zip(teacher.bert.encoder.layer, student.bert.encoder.layer, strict=True):
        experts = layer.experts
        for expert, neurons in enumerate(experts.neuron_indices.tolist()):
            for place, neuron in enumerate(neurons):
                assert torch.equal(
                    experts.up_weight[expert, :, place], dense.intermediate.dense.weight[neuron]
                )
                assert torch.equal(experts.up_bias[expert, place], dense.intermediate.dense.bias[neuron])
                assert torch.equal(experts.down_weight[expert, place], dense.output.dense.weight[:, neuron])
            assert torch.equal(experts.down_bias[expert], dense.output.dense.bias)
            assert torch.equal(experts.layernorm_weight[expert], dense.output.LayerNorm.weight)
            assert torch.equal(experts.layernorm_bias[expert], dense.output.LayerNorm.bias)


def test_strategies_choose_different_neurons(make_teacher: Any) -> None:
    teacher, importance = make_teacher(), torch.rand(3, 48)
    config = MoEBertConfig.from_bert(teacher.config)
    kept = {}
    for strategy in ("importance", "random", "inverse"):
        student = adapt(teacher, config, importance=importance, strategy=strategy)
        shared = student.bert.encoder.layer[0].experts.neuron_indices[0, : config.shared_size]
        kept[strategy] = float(importance[0, shared].mean())
    assert kept["importance"] > kept["random"] > kept["inverse"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_experts_that_hold_everything_give_the_teachers_logits(
    make_teacher: Any,
    make_batch: Any,
    logits_of: Any,
    head: str,
    hash_routing: str,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    teacher, batch = make_teacher(head, dtype), make_batch(head)
    config = MoEBertConfig.from_bert(
        teacher.config, expert_intermediate_size=48, shared_neurons=48, routing=hash_routing
    )
    student = adapt(teacher, config, importance=torch.rand(3, 48), token_frequency=EVEN)
    expected = teacher(**batch, output_hidden_states=True)
    found = student(**batch, output_hidden_states=True)
    torch.testing.assert_close(logits_of(found), logits_of(expected), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.loss, expected.loss, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_a_cut_model_does_not_give_the_teachers_logits(make_teacher: Any, make_batch: Any) -> None:
    teacher, batch = make_teacher(), make_batch()
    student = adapt(teacher, MoEBertConfig.from_bert(teacher.config), strategy="random")
    assert (student(**batch).logits - teacher(**batch).logits).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("head", "student_class"),
    [
        ("none", MoEBertModel),
        ("classification", MoEBertForSequenceClassification),
        ("span", MoEBertForQuestionAnswering),
    ],
)
def test_the_head_and_all_else_are_the_teachers(make_teacher: Any, head: str, student_class: type) -> None:
    teacher = make_teacher(head)
    student = adapt(teacher, MoEBertConfig.from_bert(teacher.config), strategy="random")
    assert type(student) is student_class
    own = student.state_dict()
    for name, value in teacher.state_dict().items():
        if "attention" in name or ".layer." not in name:
            assert torch.equal(own[name], value), name


@pytest.mark.usefixtures("restored_generator")
def test_the_student_hangs_on_the_arguments_alone(make_teacher: Any, routing: str) -> None:
    generator = torch.get_rng_state()
    teacher, importance = make_teacher(), torch.rand(3, 48)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    config = MoEBertConfig.from_bert(teacher.config, routing=routing)
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(adapt(teacher, config, importance=importance, token_frequency=EVEN).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    torch.manual_seed(2)
    adapt(teacher, config, importance=importance, token_frequency=EVEN)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(state, torch.get_rng_state())
    torch.set_rng_state(generator)


def test_the_generators_of_gpus_are_left_alone(make_teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def seeded(_seed: int) -> None:
        raise AssertionError("a GPU's generator was seeded")

    teacher = make_teacher()
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded)
    student = adapt(teacher, config_of(teacher), strategy="random")
    grow(student, num_experts=5)


def test_the_teacher_stays_outside_the_students_state(make_teacher: Any) -> None:
    teacher = make_teacher()
    student = adapt(teacher, MoEBertConfig.from_bert(teacher.config), strategy="random")
    theirs = {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in student.parameters()}
    assert not any(isinstance(module, type(teacher)) for module in student.modules())
    assert not any("teacher" in name for name in student.state_dict())


def test_mode_and_dtype_are_the_teachers_and_attention_too(make_teacher: Any) -> None:
    teacher = make_teacher(dtype=torch.bfloat16).train()
    teacher.set_attn_implementation("eager")
    config = MoEBertConfig.from_bert(teacher.config)
    student = adapt(teacher, config, strategy="random")
    assert student.training
    assert student.dtype == torch.bfloat16
    assert student.config._attn_implementation == "eager"
    assert student.config is not config


def config_of(teacher: Any, **options: Any) -> MoEBertConfig:
    return MoEBertConfig.from_bert(teacher.config, **options)


def test_importance_of_the_wrong_shape_is_refused(make_teacher: Any) -> None:
    teacher = make_teacher()
    with pytest.raises(ValueError, match=r"shape \[3, 47\]; the model needs \[3, 48\]"):
        adapt(teacher, config_of(teacher), importance=torch.rand(3, 47))


def test_importance_that_is_not_finite_is_refused(make_teacher: Any) -> None:
    teacher = make_teacher()
    with pytest.raises(ValueError, match="finite"):
        adapt(teacher, config_of(teacher), importance=torch.full((3, 48), torch.nan))


def test_missing_importance_is_refused_with_the_way_out(make_teacher: Any) -> None:
    teacher = make_teacher()
    with pytest.raises(ValueError, match=r"ffn_importance.*'random'"):
        adapt(teacher, config_of(teacher))


def test_an_unknown_strategy_is_refused(make_teacher: Any) -> None:
    teacher = make_teacher()
    with pytest.raises(ValueError, match="unknown strategy 'best'; known: importance, random, inverse"):
        adapt(teacher, config_of(teacher), strategy="best")  # type: ignore[arg-type]


OFFER = re.compile(r"(num_experts|expert_intermediate_size|shared_neurons) (up to|from) (\d+)")


def refusal(neurons: int, sizes: dict[str, int]) -> str | None:
    """Return what is said against cutting a layer of so many neurons, None if it can be cut."""
    try:
        config = MoEBertConfig(num_hidden_layers=1, intermediate_size=neurons, **sizes)
        assert assign_neurons(torch.arange(neurons)[None], config).max() < neurons
    except ValueError as error:
        return str(error)
    return None


@settings(max_examples=300)
@given(
    neurons=st.integers(1, 40), experts=st.integers(1, 9), size=st.integers(1, 60), shared=st.integers(0, 60)
)
def test_whatever_an_error_offers_fits_and_one_more_does_not(
    neurons: int, experts: int, size: int, shared: int
) -> None:
    sizes = {"num_experts": experts, "expert_intermediate_size": size, "shared_neurons": shared}
    said = refusal(neurons, sizes)
    needed = shared + experts * (size - shared)
    assert (said is None) == (shared <= size and needed <= neurons)
    if said is None or shared > size:
        assert said is None or f"an expert of {size} neurons can share 0 to {size}" in said
        return
    assert f"need {needed} neurons and there are {neurons}" in said
    if "expert_intermediate_size and shared_neurons up to" in said:
        both = ("expert_intermediate_size", "shared_neurons")
        assert refusal(neurons, sizes | dict.fromkeys(both, neurons)) is None
        assert refusal(neurons, sizes | dict.fromkeys(both, neurons + 1)) is not None
        return
    offers = [(name, 1 if way == "up to" else -1, int(value)) for name, way, value in OFFER.findall(said)]
    assert offers, said
    for name, direction, value in offers:
        assert refusal(neurons, sizes | {name: value}) is None, f"{said}: {name}={value} does not fit"
        beyond = refusal(neurons, sizes | {name: value + direction})
        assert beyond is not None, f"{said}: {name}={value + direction} fits too"


@pytest.mark.parametrize(
    ("neurons", "experts", "size", "shared", "fits"),
    [
        (48, 1, 60, 8, "expert_intermediate_size up to 48"),
        (48, 4, 60, 8, "expert_intermediate_size up to 18"),
        (48, 4, 60, 50, "expert_intermediate_size and shared_neurons up to 48"),
        (48, 1, 60, 60, "expert_intermediate_size and shared_neurons up to 48"),
        (
            *(48, 4, 24, 8),
            "expert_intermediate_size up to 18, or shared_neurons from 16 up, or num_experts up to 2",
        ),
        (3, 4, 1, 0, "shared_neurons from 1 up, or num_experts up to 3"),
    ],
)
def test_an_error_offers_only_what_fits(
    neurons: int, experts: int, size: int, shared: int, fits: str
) -> None:
    sizes = {"num_experts": experts, "expert_intermediate_size": size, "shared_neurons": shared}
    assert str(refusal(neurons, sizes)).endswith(f"what fits: {fits}")


def test_a_configuration_of_another_shape_is_refused(make_teacher: Any) -> None:
    teacher = make_teacher()
    with pytest.raises(ValueError, match=r"config.intermediate_size is 44 but the teacher's is 48"):
        adapt(teacher, config_of(make_teacher(intermediate_size=44)), strategy="random")


def test_a_layer_norm_of_another_epsilon_is_refused(make_teacher: Any) -> None:
    teacher = make_teacher()
    with pytest.raises(ValueError, match=r"config.layer_norm_eps is 0.001 but the teacher's is 1e-12"):
        adapt(teacher, config_of(make_teacher(layer_norm_eps=1e-3)), strategy="random")


def test_a_teacher_without_a_pooler_is_refused_rather_than_given_a_random_one(bert_config: Any) -> None:
    teacher = BertModel(bert_config(), add_pooling_layer=False)
    with pytest.raises(ValueError, match=r"lacks weights .*: pooler.dense.bias, pooler.dense.weight"):
        adapt(teacher, config_of(teacher), strategy="random")


def test_a_model_that_is_no_bert_with_a_known_head_is_refused() -> None:
    config = BertConfig(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, vocab_size=9
    )
    with pytest.raises(ValueError, match=r"BertForMaskedLM; known: BertModel, BertForSequenceClassification"):
        adapt(BertForMaskedLM(config), MoEBertConfig.from_bert(config), strategy="random")


@pytest.mark.parametrize(
    ("frequency", "said"),
    [
        (None, "needs token_frequency"),
        (torch.ones(96), r"shape \[96\]; it needs \[97\]"),
        (torch.zeros(97), "not all of them 0"),
        (-EVEN, "counts from 0"),
    ],
)
def test_balanced_routing_needs_the_training_tokens(make_teacher: Any, frequency: Any, said: str) -> None:
    teacher = make_teacher()
    with pytest.raises(ValueError, match=said):
        adapt(
            teacher, config_of(teacher, routing="hash-balanced"), strategy="random", token_frequency=frequency
        )
