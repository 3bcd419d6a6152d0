"""Triton kernels of experts whose tokens lie sorted already, so that Hopper's tensor memory accelerator can fetch them.

Rows and tiles are those of ``moebert.experts.triton_kernels``. A tile's last rows may belong to the next expert: they
are multiplied too, and not stored.
"""

from __future__ import annotations

import triton
import triton.language as tl

from moebert.experts.triton_kernels import find_tile
from moebert.lean.triton_kernels import block, gelu


@triton.jit
def up_kernel(
    tokens,  # descriptor of [rows, hidden]
    weight,  # descriptor of [experts * hidden, size]
    ends,
    bias,  # [experts, size]
    activations,  # [rows, size]
    hidden,
    size,
    experts,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Compute ``gelu(x W1 + b1)``."""
    blocks = tl.cdiv(size, COLUMNS)
    tile, part = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    expert, first, end = find_tile(ends, experts, tile, ROWS)
    if first >= end:
        return
    z = multiply(tokens, weight, first, expert * hidden, part * COLUMNS, hidden, ROWS, COLUMNS, DEPTH)
    rows = first + tl.arange(0, ROWS)
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    z += tl.load(bias + expert * size + columns, mask=columns < size, other=0.0).to(tl.float32)[None, :]
    inside = (rows < end)[:, None] & (columns < size)[None, :]
    tl.store(activations + rows[:, None] * size + columns[None, :], gelu(z), mask=inside)


@triton.jit
def down_kernel(
    activations,  # descriptor of [rows, size]
    weight,  # descriptor of [experts * size, hidden]
    ends,
    bias,  # [experts, hidden]
    tokens,  # [rows, hidden], the residual
    sums,  # [rows, hidden]
    hidden,
    size,
    experts,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Compute ``x + h W2 + b2``."""
    blocks = tl.cdiv(hidden, COLUMNS)
    place = tl.num_programs(0) - 1 - tl.program_id(0)  # over what still lies in the cache
    tile, part = place // blocks, place % blocks
    expert, first, end = find_tile(ends, experts, tile, ROWS)
    if first >= end:
        return
    y = multiply(activations, weight, first, expert * size, part * COLUMNS, size, ROWS, COLUMNS, DEPTH)
    rows = first + tl.arange(0, ROWS)
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    y += tl.load(bias + expert * hidden + columns, mask=columns < hidden, other=0.0).to(tl.float32)[None, :]
    inside = (rows < end)[:, None] & (columns < hidden)[None, :]
    cells = rows[:, None] * hidden + columns[None, :]
    y += tl.load(tokens + cells, mask=inside, other=0.0).to(tl.float32)
    tl.store(sums + cells, y, mask=inside)


@triton.jit
def norm_kernel(
    sums,  # [rows, hidden]
    order,
    expert_ids,
    norm,  # [experts, hidden]
    norm_bias,  # [experts, hidden]
    outputs,  # [tokens, hidden]
    tokens,
    hidden,
    eps,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute ``LayerNorm_e(sums)``, back in the order of the tokens."""
    row, column, valid, inside = block(tokens, hidden, ROWS, WIDTH)
    token = tl.load(order + row, mask=valid, other=0)
    expert = tl.load(expert_ids + token, mask=valid, other=0)
    x = tl.load(sums + row[:, None] * hidden + column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, 1) / hidden
    centred = tl.where(column < hidden, x - mean[:, None], 0.0)
    rate = tl.rsqrt(tl.sum(centred * centred, 1) / hidden + eps)
    own = expert[:, None] * hidden + column
    gain = tl.load(norm + own, mask=inside, other=0.0).to(tl.float32)
    y = centred * rate[:, None] * gain + tl.load(norm_bias + own, mask=inside, other=0.0).to(tl.float32)
    tl.store(outputs + token[:, None] * hidden + column, y, mask=inside)


@triton.jit
def multiply(
    left,
    right,
    row,
    base,
    column,
    depth,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Multiply ROWS rows of ``left`` with COLUMNS columns of the matrix in ``right`` that starts at the row ``base``.

    Past the depth ``left`` is filled with zeros, so what ``right`` has there does not matter.
    """
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        product = tl.dot(left.load([row, start]), right.load([base + start, column]), product)
    return product
