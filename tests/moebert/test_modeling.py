from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertModel, eager_attention_forward

from moebert import MoEBertConfig, MoEBertForSequenceClassification, adapt
from moebert.experts import IMPLEMENTATIONS, sort_by_expert

EXACT = {"rtol": 0, "atol": 1e-9}


def alone(batch: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """Return one sequence without its padding."""
    length = int(batch["attention_mask"][index].sum())
    return {name: value[index : index + 1, :length] for name, value in batch.items() if value.dim() == 2}


def test_neither_companions_nor_padding_matter(
    make_student: Any, make_batch: Any, inputs_of: Any, logits_of: Any, routing: str, head: str
) -> None:
    student, batch = make_student(routing, head), make_batch(head)
    together = logits_of(student(**inputs_of(batch)))
    for index, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        single = logits_of(student(**alone(batch, index)))
        row = together[index : index + 1]
        torch.testing.assert_close(row[..., :length] if head == "span" else row, single, **EXACT)


def test_the_order_of_a_batch_does_not_matter(
    make_student: Any, make_batch: Any, inputs_of: Any, logits_of: Any, routing: str, head: str
) -> None:
    student, inputs = make_student(routing, head), inputs_of(make_batch(head))
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = {name: value[order] for name, value in inputs.items()}
    torch.testing.assert_close(logits_of(student(**shuffled)), logits_of(student(**inputs))[order], **EXACT)


def test_more_padding_does_not_matter(
    make_student: Any, make_batch: Any, inputs_of: Any, logits_of: Any, routing: str
) -> None:
    student, inputs = make_student(routing), inputs_of(make_batch())
    wider = {name: F.pad(value, (0, 5)) for name, value in inputs.items()}
    found, expected = student(**wider), student(**inputs)
    torch.testing.assert_close(found.logits, expected.logits, **EXACT)
    if expected.balance_loss is not None:
        torch.testing.assert_close(found.balance_loss, expected.balance_loss, **EXACT)


def test_without_a_mask_nothing_is_padding(make_student: Any, make_batch: Any, routing: str) -> None:
    student, ids = make_student(routing), make_batch()["input_ids"]
    expected = student(input_ids=ids, attention_mask=torch.ones_like(ids))
    torch.testing.assert_close(student(input_ids=ids).logits, expected.logits, **EXACT)


def test_eager_and_sdpa_attention_agree(
    make_student: Any, make_batch: Any, inputs_of: Any, logits_of: Any, routing: str, head: str
) -> None:
    student, inputs = make_student(routing, head), inputs_of(make_batch(head))
    found = {name: logits_of(attended(student, inputs, name)) for name in ("eager", "sdpa")}
    torch.testing.assert_close(found["sdpa"], found["eager"], **EXACT)


@pytest.mark.slow
def test_flex_attention_agrees(make_student: Any, make_batch: Any, inputs_of: Any, routing: str) -> None:
    student, inputs = make_student(routing, dtype=torch.float32), inputs_of(make_batch())
    found = {name: attended(student, inputs, name).logits for name in ("eager", "flex_attention")}
    torch.testing.assert_close(found["flex_attention"], found["eager"], rtol=1e-4, atol=1e-4)


def attended(student: Any, inputs: dict[str, Tensor], attention: str) -> Any:
    """Run a model under an attention implementation, and see that this is the one that it calls."""
    student.set_attn_implementation(attention)
    calls: list[str] = []
    known = ALL_ATTENTION_FUNCTIONS.get_interface(attention, eager_attention_forward)

    def watched(*arguments: Any, **options: Any) -> Any:
        calls.append(attention)
        return known(*arguments, **options)

    name = "eager_attention_forward" if attention == "eager" else attention
    with pytest.MonkeyPatch.context() as patched, torch.no_grad():
        if attention == "eager":
            patched.setattr(f"{BertModel.__module__}.{name}", watched)
        else:
            patched.setitem(ALL_ATTENTION_FUNCTIONS, attention, watched)
        outputs = student(**inputs)
    assert calls == [attention] * student.config.num_hidden_layers
    return outputs


@pytest.mark.gpu
@pytest.mark.parametrize(
    "attention",
    [
        "sdpa",
        "flex_attention",
        pytest.param(
            "flash_attention_2",
            marks=pytest.mark.skipif(find_spec("flash_attn") is None, reason="flash-attn is not installed"),
        ),
    ],
)
def test_attention_implementations_agree_on_cuda(
    make_teacher: Any, make_batch: Any, inputs_of: Any, routing: str, attention: str
) -> None:
    teacher = make_teacher(dtype=torch.float32, hidden_size=64)  # heads of 16, as the kernels want them
    config = MoEBertConfig.from_bert(teacher.config, routing=routing)
    student: Any = adapt(teacher, config, strategy="random", token_frequency=torch.arange(97, 0, -1)).cuda()
    inputs = {name: value.cuda() for name, value in inputs_of(make_batch(batch=64)).items()}
    half = attention == "flash_attention_2"
    student.to(torch.bfloat16 if half else torch.float32)
    expected, found = (attended(student, inputs, name).logits.float() for name in ("eager", attention))
    near = (found - expected).abs().amax(1) < (0.1 if half else 1e-3)
    assert near.float().mean() > (
        0.8 if half else 0.95
    )  # a gate near a tie may turn where attention is rounded


def test_hidden_states_run_from_the_embeddings_to_the_last_layer(
    make_student: Any, make_batch: Any, inputs_of: Any, routing: str
) -> None:
    student, inputs = make_student(routing), inputs_of(make_batch())
    states = student(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 4
    embedded = student.bert.embeddings(input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"])
    assert torch.equal(states[0], embedded)
    assert torch.equal(states[-1], student.bert(**inputs).last_hidden_state)
    assert student(**inputs).hidden_states is None


def test_attention_weights_come_from_eager_attention_alone(
    make_student: Any, make_batch: Any, inputs_of: Any
) -> None:
    student, inputs = make_student("hash-random"), inputs_of(make_batch())
    with pytest.raises(ValueError, match="'sdpa' keeps no attention weights; set 'eager'"):
        student(**inputs, output_attentions=True)
    student.set_attn_implementation("eager")
    attentions = student(**inputs, output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(6, 4, 13, 13)] * 3
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(6, 4, 13, dtype=torch.float64))


def test_router_logits_have_a_row_for_what_is_routed(
    make_student: Any, make_batch: Any, inputs_of: Any, gate_routing: str
) -> None:
    logits = make_student(gate_routing)(**inputs_of(make_batch())).router_logits
    shape = (6, 13, 4) if gate_routing == "gate-token" else (6, 4)
    assert [tuple(layer.shape) for layer in logits] == [shape] * 3


@pytest.mark.parametrize("problem", [None, "regression", "multi_label_classification"])
def test_losses_are_those_of_transformers_bert(
    make_teacher: Any, make_batch: Any, problem: str | None
) -> None:
    teacher, batch = make_teacher(problem_type=problem), make_batch()
    if problem is not None:
        batch["labels"] = torch.rand(6, 3)
    config = MoEBertConfig.from_bert(teacher.config, expert_intermediate_size=48, shared_neurons=48)
    student = adapt(teacher, config, strategy="random")
    torch.testing.assert_close(student(**batch).loss, teacher(**batch).loss.double(), rtol=1e-6, atol=0)
    assert student.config.problem_type is problem


def test_an_answer_outside_the_window_does_not_count(make_teacher: Any, make_batch: Any) -> None:
    teacher, batch = make_teacher("span"), make_batch("span")
    batch["start_positions"][2] = 500
    batch["end_positions"][4] = 13
    config = MoEBertConfig.from_bert(teacher.config, expert_intermediate_size=48, shared_neurons=48)
    student = adapt(teacher, config, strategy="random")
    torch.testing.assert_close(student(**batch).loss, teacher(**batch).loss, rtol=1e-10, atol=0)


def test_embeddings_can_be_given_to_gates_only(make_student: Any, make_batch: Any) -> None:
    ids = make_batch()["input_ids"]
    gated = make_student("gate-token")
    embeds = gated.bert.embeddings.word_embeddings(ids)
    torch.testing.assert_close(gated(inputs_embeds=embeds).logits, gated(input_ids=ids).logits, **EXACT)
    with pytest.raises(ValueError, match="'hash-random' looks experts up by token id"):
        make_student("hash-random")(inputs_embeds=embeds)


@pytest.mark.parametrize("given", [{}, {"input_ids": 1, "inputs_embeds": 1}])
def test_ids_or_embeddings_but_not_both(make_student: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        make_student("gate-token")(**given)


def test_a_gate_refuses_a_mask_that_hides_what_is_padding(make_student: Any, make_batch: Any) -> None:
    ids = make_batch()["input_ids"]
    mask = torch.ones(6, 1, 13, 13, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\[batch, length\].*\[6, 1, 13, 13\]"):
        make_student("gate-token")(input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize("unknown", ["head_mask", "input_idz"])
def test_an_unknown_argument_is_refused(make_student: Any, make_batch: Any, head: str, unknown: str) -> None:
    with pytest.raises(TypeError, match=unknown):
        make_student("hash-random", head)(**make_batch(head), **{unknown: None})


def test_a_tuple_comes_back_if_asked_for(make_student: Any, make_batch: Any, head: str) -> None:
    student, batch = make_student("gate-token", head), make_batch(head)
    outputs = student(**batch)
    assert torch.equal(student(**batch, return_dict=False)[0], outputs.loss)


def test_dropout_acts_in_training_alone_and_the_experts_have_their_own(
    make_student: Any, make_batch: Any, inputs_of: Any
) -> None:
    inputs = inputs_of(make_batch())
    student = make_student("hash-random", expert_dropout=0.5)
    student.config.attention_probs_dropout_prob = 0.0
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert torch.equal(student(**inputs).logits, student(**inputs).logits)
    student.train()
    assert not torch.equal(student(**inputs).logits, student(**inputs).logits)


def test_gradient_checkpointing_gives_the_same_gradients(
    make_student: Any, make_batch: Any, routing: str
) -> None:
    student, batch = make_student(routing, expert_dropout=0.0), make_batch()
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    student.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            student.gradient_checkpointing_enable()
        student.zero_grad()
        student(**batch).loss.backward()
        gradients.append(
            {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_every_parameter_gets_a_gradient(make_student: Any, make_batch: Any, routing: str) -> None:
    student = make_student(routing)
    student(**make_batch(batch=32)).loss.backward()
    untouched = [name for name, parameter in student.named_parameters() if parameter.grad is None]
    assert untouched == []


@pytest.mark.parametrize(
    "name", ["up_weight", "up_bias", "down_weight", "down_bias", "layernorm_weight", "layernorm_bias"]
)
def test_each_expert_has_weights_of_its_own_that_its_tokens_alone_see(make_student: Any, name: str) -> None:
    experts = make_student("hash-random").bert.encoder.layer[0].experts
    tokens, ids = torch.randn(40, 16, dtype=torch.float64), torch.arange(40) % 4
    dispatch = sort_by_expert(ids, 4)
    with torch.no_grad():
        before = experts(tokens, dispatch)
        for expert in range(4):
            row = getattr(experts, name)[expert]
            kept = row.clone()
            row += torch.randn_like(row)
            changed = (experts(tokens, dispatch) != before).any(1)
            row.copy_(kept)
            assert torch.equal(changed, ids == expert)


def test_the_named_implementation_is_the_one_that_runs(
    make_student: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, batch, ran = make_student("hash-random"), make_batch(), []
    for name, function in list(IMPLEMENTATIONS.items()):
        monkeypatch.setitem(
            IMPLEMENTATIONS, name, lambda *a, _n=name, _f=function: (ran.append(_n), _f(*a))[1]
        )
    for name in IMPLEMENTATIONS:
        student.set_experts_implementation(name)
        assert student.get_experts_implementation() == {"": name}
        student(**batch)
    assert ran == [name for name in IMPLEMENTATIONS for _ in range(3)]


def test_an_unknown_implementation_is_refused_with_the_nearest(make_student: Any) -> None:
    student = make_student("hash-random")
    with pytest.raises(
        ValueError, match=r"'groupd'; did you mean 'grouped'. known: reference, grouped, fused, auto"
    ):
        student.set_experts_implementation("groupd")
    assert student.get_experts_implementation() == {"": "auto"}


def test_a_model_without_training_data_balances_its_vocabulary() -> None:
    config = MoEBertConfig(
        vocab_size=100,
        hidden_size=8,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=16,
        routing="hash-balanced",
    )
    table = MoEBertForSequenceClassification(config).bert.router.table
    assert torch.bincount(table[0]).tolist() == [25] * 4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_holds_a_forward_and_backward_pass(
    make_student: Any, make_batch: Any, routing: str, dtype: torch.dtype
) -> None:
    student = make_student(routing, dtype=dtype, num_experts=3).cuda()
    static = {name: value.cuda() for name, value in make_batch(batch=32).items()}

    def step() -> tuple[Tensor, ...]:
        loss = student(**static).loss
        return (loss, *torch.autograd.grad(loss, list(student.parameters())))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for name, value in make_batch(batch=32).items():
        static[name].copy_(value)
    graph.replay()
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for ours, theirs in zip(captured, step(), strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm().clamp(min=1e-3)
