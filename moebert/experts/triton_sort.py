"""Sort tokens by expert in two Triton kernels, for all layers at once: a stable counting sort."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

COUNTS_AT_ONCE = 16384  # tokens times experts that a program holds


def counting_sort(expert_ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """Return the order ``[..., tokens]``, int64, and the ends ``[..., experts]``, int32, of a Dispatch."""
    tokens = expert_ids.shape[-1]
    ids = expert_ids.reshape(math.prod(expert_ids.shape[:-1]), tokens)
    layers, width = ids.shape[0], triton.next_power_of_2(num_experts)
    chunk = min(COUNTS_AT_ONCE // width, 1024)
    chunks = triton.cdiv(tokens, chunk)
    counts = torch.empty(layers, chunks, num_experts, dtype=torch.int32, device=ids.device)
    order = torch.empty_like(ids)
    blank = torch.empty if tokens else torch.zeros  # without tokens no program fills it
    ends = blank(layers, num_experts, dtype=torch.int32, device=ids.device)
    sizes = {"CHUNK": chunk, "WIDTH": width}
    count_kernel[(layers, chunks)](ids, counts, tokens, chunks, num_experts, **sizes)
    place_kernel[(layers, chunks)](
        ids, counts, order, ends, tokens, chunks, num_experts, **sizes, AT_ONCE=COUNTS_AT_ONCE // 2 // width
    )
    leading = expert_ids.shape[:-1]
    return order.view(*leading, tokens), ends.view(*leading, num_experts)


@triton.jit
def count_kernel(
    ids,  # [layers, tokens]
    counts,  # [layers, chunks, experts]
    tokens,
    chunks,
    experts,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Count how many of a chunk's tokens visit each expert."""
    layer, chunk = tl.program_id(0), tl.program_id(1)
    visits = one_hot(ids, layer, chunk, tokens, CHUNK, WIDTH)
    expert = tl.arange(0, WIDTH)
    cells = counts + (layer * chunks + chunk) * experts + expert
    tl.store(cells, tl.sum(visits, 0), mask=expert < experts)


@triton.jit
def place_kernel(
    ids,  # [layers, tokens]
    counts,  # [layers, chunks, experts]
    order,  # [layers, tokens]
    ends,  # [layers, experts]
    tokens,
    chunks,
    experts,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Put a chunk's tokens behind those of earlier experts, and of the same expert in earlier chunks."""
    layer, chunk = tl.program_id(0), tl.program_id(1)
    expert = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.int32)
    before = tl.zeros((WIDTH,), tl.int32)
    for start in range(0, chunks, AT_ONCE):
        other = start + tl.arange(0, AT_ONCE)
        cells = (layer * chunks + other)[:, None] * experts + expert[None, :]
        count = tl.load(counts + cells, mask=(other < chunks)[:, None] & (expert < experts)[None, :], other=0)
        total += tl.sum(count, 0)
        before += tl.sum(tl.where((other < chunk)[:, None], count, 0), 0)
    last = tl.cumsum(total, 0)
    if chunk == 0:
        tl.store(ends + layer * experts + expert, last, mask=expert < experts)
    visits = one_hot(ids, layer, chunk, tokens, CHUNK, WIDTH)
    places = tl.cumsum(visits, 0) - 1 + (last - total + before)[None, :]
    place = tl.sum(tl.where(visits > 0, places, 0), 1)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    row = layer.to(tl.int64) * tokens
    tl.store(order + row + place, token.to(tl.int64), mask=token < tokens)


@triton.jit
def one_hot(ids, layer, chunk, tokens, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """Return ``[CHUNK, WIDTH]``, 1 where a token visits an expert."""
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    own = tl.load(ids + layer.to(tl.int64) * tokens + token, mask=token < tokens, other=-1)
    return (own[:, None] == tl.arange(0, WIDTH)[None, :]).to(tl.int32)
