"""Which products may be fed by blocks; here the GPU is pretended."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig

from moebert import MoEBertConfig
from moebert.layers import MoEBertExperts
from moebert.lean import experts, fused


def test_blocks_are_for_two_aligned_tensors_of_one_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "has_kernels", lambda x: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    x, matrix = torch.zeros(32, 16, dtype=torch.bfloat16), torch.zeros(24, 16, dtype=torch.bfloat16)
    assert fused.takes_blocks(x, matrix)
    assert not fused.takes_blocks(x.float(), matrix.float())
    assert not fused.takes_blocks(x, matrix.float())  # as under autocast
    assert not fused.takes_blocks(x, matrix[:20].contiguous())
    assert not fused.takes_blocks(x, matrix[:0])
    assert not fused.takes_blocks(x, matrix.T)
    assert not fused.takes_blocks(x, torch.zeros(24 * 16 + 1, dtype=torch.bfloat16)[1:].view(24, 16))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert not fused.takes_blocks(x, matrix)


def test_what_needs_gradients_is_not_multiplied_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """These kernels have no backward pass: gradients would vanish without an error."""
    monkeypatch.setattr(fused, "takes_blocks", lambda x, matrix: True)
    monkeypatch.setattr(fused, "WORTH_FUSING", 1)
    x, weight, bias = torch.randn(4, 8), torch.randn(16, 8, requires_grad=True), torch.randn(16)
    assert fused.linear_gelu(x, weight, bias).requires_grad

    monkeypatch.setattr(experts, "takes_blocks", lambda x, matrix: True)
    config = MoEBertConfig.from_bert(BertConfig(hidden_size=8, intermediate_size=16, num_attention_heads=1))
    config._experts_implementation = "auto"
    layer = experts.Experts(MoEBertExperts(config), None)
    many = torch.zeros(experts.WORTH_SORTING, 8)
    assert not layer._takes_sorted(many)
    with torch.no_grad():
        assert layer._takes_sorted(many)
        assert not layer._takes_sorted(many[1:])
