"""Which implementation runs, and who is told why not another."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch
from expert_cases import EPS, assert_close, random_case, run
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.activations import ACT2FN

from moebert.experts import ExpertWeights, find_implementation, fused


@pytest.mark.triton  # where there is Triton, a CPU goes without it all the same
@pytest.mark.parametrize("implementation", ["fused", "auto"])
def test_on_a_cpu_grouped_runs_and_only_who_asked_for_fused_is_told_once(
    implementation: str, caplog: pytest.LogCaptureFixture
) -> None:
    fused._say_once.cache_clear()
    case = random_case(20, 3, 16, 8)
    with caplog.at_level(logging.WARNING, logger="moebert"):
        found = [run(implementation, case, "cpu", torch.float64) for _ in range(2)]
    expected = run("grouped", case, "cpu", torch.float64)
    for outputs in found:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))
    told = [record.getMessage() for record in caplog.records]
    line = "experts run by 'grouped' instead of 'fused': tokens are on cpu, not on a CUDA device"
    assert told == ([line] if implementation == "fused" else [])


NO_VALUES = FakeTensorMode(allow_non_fake_inputs=True)  # tensors that say they are on a GPU


@pytest.mark.parametrize(
    ("dtype", "tokens", "activation", "reason"),
    [
        (torch.bfloat16, 20, "gelu", None),
        (torch.float32, 20, "relu", None),
        (torch.float64, 20, "gelu", "there are no kernels for torch.float64"),
        (torch.bfloat16, 20, "silu", "no kernel for the activation SiLU.*only for gelu, gelu_new"),
        (torch.bfloat16, 2**27, "gelu", "134217728 tokens need offsets of more than 31 bits"),
    ],
)
def test_where_the_kernels_cannot_run_there_is_a_reason(
    dtype: torch.dtype, tokens: int, activation: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "has_triton", lambda: True)
    with NO_VALUES:
        x = torch.empty(tokens, 16, device="cuda", dtype=dtype)
        weights = ExpertWeights(*[torch.empty(3, 16, 8, device="cuda", dtype=dtype)] * 6, norm_eps=EPS)
        found = fused.why_not_fused(x, weights, ACT2FN[activation])
        assert found is None if reason is None else re.search(reason, found)
        monkeypatch.setattr(fused, "has_triton", lambda: False)
        assert fused.why_not_fused(x, weights, ACT2FN[activation]) == "triton is not installed"
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert fused.why_not_fused(x, weights, ACT2FN[activation]) == "torch.compile has its own kernels"


@pytest.mark.parametrize(("products", "runs"), [(torch.bfloat16, "kernels"), (torch.float32, "grouped")])
def test_by_default_the_kernels_run_if_products_are_in_half_precision(
    products: torch.dtype, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "has_triton", lambda: True)
    monkeypatch.setattr(fused, "product_dtype", lambda tokens: products)
    monkeypatch.setattr(fused, "_run", lambda *arguments: "kernels")
    monkeypatch.setattr(fused, "grouped_experts", lambda *arguments: "grouped")
    with NO_VALUES:
        x = torch.empty(20, 16, device="cuda")
        weights = ExpertWeights(*[torch.empty(3, 16, 8, device="cuda")] * 6, norm_eps=EPS)
        arguments: Any = (x, None, weights, ACT2FN["gelu"], 0.0)
        assert find_implementation("auto")(*arguments) == runs
        assert find_implementation("fused")(*arguments) == "kernels"


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "activation", "reason"),
    [
        (torch.float64, "gelu", "float64"),
        (torch.float32, "silu", "activation"),
        (torch.float32, "gelu", None),
    ],
)
def test_what_the_kernels_do_not_have_runs_by_grouped(
    dtype: torch.dtype, activation: str, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    fused._say_once.cache_clear()
    case = random_case(20, 3, 16, 8)
    with caplog.at_level(logging.WARNING, logger="moebert"):
        found = run("fused", case, "cuda", dtype, activation)
    assert_close(found, run("reference", case, "cuda", torch.float64, activation), 1e-5)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (reason is not None)
    assert reason is None or reason in told[0]
