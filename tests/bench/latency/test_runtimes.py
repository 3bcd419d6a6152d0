from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from bench.latency.energy import energy_mj
from bench.latency.runtimes import Compiled, CudaGraph, Eager, Runtime, availability, timed_inputs
from bench.registry import runtimes
from moebert import MoEBertConfig, adapt

SIZES: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 32}
BERT = BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32, **SIZES)
DISTILBERT = DistilBertConfig(dim=16, n_heads=2, n_layers=2, hidden_dim=32, **SIZES)


def batches() -> list[dict[str, torch.Tensor]]:
    ids = torch.arange(40).reshape(2, 4, 5)
    mask = torch.ones_like(ids)
    mask[:, 0, 3:] = 0
    types = (torch.arange(5) > 2).long().expand(4, 5)
    return [{"input_ids": ids[i], "attention_mask": mask[i], "token_type_ids": types} for i in range(2)]


def test_eager_is_registered_like_anybody_elses() -> None:
    assert runtimes.get("eager") is Eager
    assert issubclass(Eager, Runtime)
    assert Eager().supports(torch.device("cpu")) is None


def test_eager_runs_the_batch_it_is_told_to_without_autograd() -> None:
    model = BertForSequenceClassification(BERT).eval()
    run = Eager().prepare(model, batches())
    for index, batch in enumerate(batches()):
        logits = run(index).logits
        assert logits.is_inference()
        assert torch.equal(logits, model(**batch).logits)
    assert not torch.equal(run(0).logits, run(1).logits)


@pytest.mark.parametrize("left_out", ["attention_mask", "token_type_ids"])
def test_every_input_reaches_the_model(left_out: str) -> None:
    model = BertForSequenceClassification(BERT).eval()
    less = [{name: batch[name] for name in batch if name != left_out} for batch in batches()]
    assert not torch.equal(
        Eager().prepare(model, batches())(0).logits, Eager().prepare(model, less)(0).logits
    )


def test_a_model_without_token_types_is_not_given_any() -> None:
    model = DistilBertForSequenceClassification(DISTILBERT).eval()
    assert Eager().prepare(model, batches())(0).logits.shape == (4, 2)


def test_without_padding_no_runtime_passes_a_mask_and_the_answer_stays() -> None:
    model = BertForSequenceClassification(BERT).eval()
    full = [{**batch, "attention_mask": torch.ones_like(batch["input_ids"])} for batch in batches()]
    inputs = timed_inputs(model, full)
    assert [set(batch) for batch in inputs] == [{"input_ids", "token_type_ids"}] * 2
    for index, batch in enumerate(full):
        torch.testing.assert_close(Eager().prepare(model, full)(index).logits, model(**batch).logits)


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
    reason="torch 2.11 calls a compilation an export, and then transformers builds a mask",
)
def test_without_padding_a_compiled_model_builds_no_mask() -> None:
    masks: list[object] = []

    def backend(traced: torch.fx.GraphModule, _inputs: object) -> Any:
        nodes = [node for node in traced.graph.nodes if "scaled_dot_product" in str(node.target)]
        masks.extend(node.kwargs["attn_mask"] for node in nodes)
        return traced.forward

    model = BertForSequenceClassification(BERT).eval()
    whole = [{**batch, "attention_mask": torch.ones_like(batch["input_ids"])} for batch in batches()]
    with torch.inference_mode():
        torch.compile(model, backend=backend, dynamic=False)(**timed_inputs(model, whole)[0])
    assert masks == [None] * BERT.num_hidden_layers


def test_one_padded_token_keeps_every_mask_of_the_workload() -> None:
    model = BertForSequenceClassification(BERT).eval()
    mixed = batches()
    mixed[0]["attention_mask"] = torch.ones_like(mixed[0]["attention_mask"])
    assert all("attention_mask" in batch for batch in timed_inputs(model, mixed))


def test_a_model_that_needs_a_mask_is_given_one() -> None:
    class Strict(BertForSequenceClassification):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return super().forward(input_ids, attention_mask=attention_mask)

    full = [{**batch, "attention_mask": torch.ones_like(batch["input_ids"])} for batch in batches()]
    assert all("attention_mask" in batch for batch in timed_inputs(Strict(BERT).eval(), full))


def test_a_cuda_graph_needs_a_cuda_device() -> None:
    skip = CudaGraph().supports(torch.device("cpu"))
    assert skip is not None
    assert "CUDA device" in skip.reason
    assert CudaGraph().supports(torch.device("cuda")) is None


def test_compilation_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    skip = Compiled().supports(torch.device("cpu"))
    assert skip is not None
    assert "no-such-compiler" in skip.reason
    monkeypatch.setenv("CXX", sys.executable)
    assert Compiled().supports(torch.device("cpu")) is None


def test_where_a_runtime_can_be_used_is_said_for_every_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert availability(Eager()) == "cpu"
    assert availability(CudaGraph()).startswith("not here: CUDA graphs need")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert availability(Eager()) == "cpu, cuda"
    assert availability(CudaGraph()) == "cuda"


@pytest.mark.slow
def test_a_compiled_model_answers_as_the_eager_one_on_a_cpu() -> None:
    model = BertForSequenceClassification(BERT).eval()
    run = Compiled().prepare(model, batches())
    for index in range(2):
        torch.testing.assert_close(run(index).logits, Eager().prepare(model, batches())(index).logits)


def wide_models() -> dict[str, Any]:
    """A dense BERT and a MoEBERT of every routing, wide enough for every kernel."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128}
    dense = BertForSequenceClassification(BertConfig(**sizes, initializer_range=0.2, **SIZES))
    models = {"dense": dense}
    for routing in ("hash-random", "hash-balanced", "gate-token", "gate-sentence"):
        shape = MoEBertConfig.from_bert(dense.config, num_experts=4, routing=routing)
        models[routing] = adapt(dense, shape, strategy="random", token_frequency=torch.ones(50))
    return models


def gpu_batches(*lengths: int, padded: bool) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for length in lengths:
        ids = torch.randint(1, 50, (8, length), generator=generator)
        mask = torch.ones_like(ids)
        if padded:
            mask[1, length // 2 :] = 0
        made.append(
            {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        )
    return [{name: tensor.cuda() for name, tensor in batch.items()} for batch in made]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["dense", "hash-random", "hash-balanced", "gate-token", "gate-sentence"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padded", [False, True])
def test_a_captured_model_answers_as_the_eager_one(name: str, dtype: torch.dtype, padded: bool) -> None:
    model = wide_models()[name].to("cuda", dtype).eval()
    given = gpu_batches(16, 24, 16, 32, padded=padded)
    run, eager = CudaGraph().prepare(model, given), Eager().prepare(model, given)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}[dtype]
    for index in [0, 1, 2, 3, 2, 0]:
        found, expected = run(index).logits.clone(), eager(index).logits
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert not torch.equal(run(0).logits.clone(), run(2).logits)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["dense", "hash-random", "gate-token"])
def test_a_compiled_model_answers_as_the_eager_one_on_a_gpu(name: str) -> None:
    model = wide_models()[name].to("cuda", torch.bfloat16).eval()
    given = gpu_batches(16, 32, padded=False)
    run, eager = Compiled().prepare(model, given), Eager().prepare(model, given)
    for index in (0, 1, 0):
        torch.testing.assert_close(run(index).logits, eager(index).logits, rtol=5e-2, atol=5e-2)


@pytest.mark.gpu
def test_energy_is_counted_where_nvml_counts_it() -> None:
    pytest.importorskip("pynvml")
    matrix = torch.randn(4096, 4096, device="cuda")
    small = energy_mj(matrix.device, lambda _: matrix @ matrix, 8)
    large = energy_mj(matrix.device, lambda _: [matrix @ matrix for _ in range(4)], 8)
    assert small is not None
    assert large is not None
    assert 100 < small < 20_000  # 0.14 teraflop at 10 to 60 per watt and second
    assert large == pytest.approx(4 * small, rel=0.3)


def test_nothing_counts_the_energy_of_a_cpu() -> None:
    assert energy_mj(torch.device("cpu"), lambda _: None, 1) is None
