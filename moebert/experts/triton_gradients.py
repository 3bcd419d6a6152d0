"""Triton kernels of the experts' backward pass; rows and tiles as in the forward pass.

No kernel adds to memory that another program adds to, so gradients are the same bits in every run. Sums over an
expert's tokens of what has no product of its own (biases, LayerNorm) are first taken for each tile, then over tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from moebert.experts.triton_kernels import MAX_EXPERTS, drop, find_tile, multiply, segments


@triton.jit
def norm_gradient_kernel(
    gradients,  # [tokens, hidden], of the outputs
    sums,  # [tokens, hidden], what was normalised
    means,  # [tokens]
    rates,  # [tokens], one over the standard deviations
    order,
    ends,
    norm,
    norm_bias,
    probability,  # [tokens]
    seed,
    sum_gradients,  # [rows, hidden], of the sums
    product_gradients,  # [rows, hidden], of what went into dropout; written if APART
    probability_gradients,  # [tokens]
    tile_sums,  # [tiles, 3, hidden], of norm, norm_bias and the bias before dropout
    hidden,
    experts,
    dropout,
    scale,
    GATED: tl.constexpr,
    DROPOUT: tl.constexpr,
    APART: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Go back through ``p LayerNorm(x + dropout(y))``."""
    tile = tl.program_id(0)
    expert, first, end = find_tile(ends, experts, tile, ROWS)
    if first >= end:
        return
    column = tl.arange(0, WIDTH)
    gain = tl.load(norm + expert * hidden + column, mask=column < hidden, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias + expert * hidden + column, mask=column < hidden, other=0.0).to(tl.float32)
    norm_sum = tl.zeros((CHUNK, WIDTH), tl.float32)  # summed over its rows last: that crosses warps
    norm_bias_sum = tl.zeros((CHUNK, WIDTH), tl.float32)
    bias_sum = tl.zeros((CHUNK, WIDTH), tl.float32)
    for start in range(0, ROWS, CHUNK):
        rows = first + start + tl.arange(0, CHUNK)
        token = tl.load(order + rows, mask=rows < end, other=0).to(tl.int32)
        inside = (rows < end)[:, None] & (column < hidden)[None, :]
        cells = token[:, None] * hidden + column[None, :]
        y = tl.load(sums + cells, mask=inside, other=0.0).to(tl.float32)
        gradient = tl.load(gradients + cells, mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(means + token)[:, None]
        rate = tl.load(rates + token)[:, None]
        unit = tl.where(inside, (y - mean) * rate, 0.0)
        if GATED:
            normed = unit * gain[None, :] + shift[None, :]
            tl.store(probability_gradients + token, tl.sum(gradient * normed, 1), mask=rows < end)
            gradient *= tl.load(probability + token).to(tl.float32)[:, None]
        norm_sum += gradient * unit
        norm_bias_sum += gradient
        gradient *= gain[None, :]
        along = tl.sum(gradient * unit, 1)[:, None] * unit + tl.sum(gradient, 1)[:, None]
        gradient = tl.where(inside, (gradient - along / hidden) * rate, 0.0)
        sorted_cells = rows[:, None] * hidden + column[None, :]
        tl.store(sum_gradients + sorted_cells, gradient, mask=inside)
        if DROPOUT:
            gradient = drop(gradient, seed, cells, dropout, scale)
        if APART:
            tl.store(product_gradients + sorted_cells, gradient, mask=inside)
        bias_sum += gradient
    tile_sums += tile * 3 * hidden + column
    tl.store(tile_sums, tl.sum(norm_sum, 0), mask=column < hidden)
    tl.store(tile_sums + hidden, tl.sum(norm_bias_sum, 0), mask=column < hidden)
    tl.store(tile_sums + 2 * hidden, tl.sum(bias_sum, 0), mask=column < hidden)


@triton.jit
def activation_gradient_kernel(
    product_gradients,  # [rows, hidden]
    ends,
    weight,
    slopes,  # [rows, size]
    pre_gradients,  # [rows, size]
    tile_sums,  # [tiles, size]
    hidden,
    size,
    experts,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Go back through ``activation(z) W2``."""
    blocks = tl.cdiv(size, COLUMNS)
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    expert, first, end = find_tile(ends, experts, tile, ROWS)
    if first >= end:
        return
    rows = first + tl.arange(0, ROWS)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    gradient = multiply(
        product_gradients + tl.minimum(rows, end - 1)[:, None] * hidden,
        weight + expert * size * hidden + (columns % size)[None, :] * hidden,
        hidden,
        1,
        PRECISION,
        ROWS,
        COLUMNS,
        DEPTH,
        EVEN,
        TRANSPOSED=True,
    )
    inside = (rows < end)[:, None] & (columns < size)[None, :]
    cells = rows[:, None] * size + columns[None, :]
    gradient *= tl.load(slopes + cells, mask=inside, other=0.0).to(tl.float32)
    tl.store(pre_gradients + cells, gradient, mask=inside)
    tl.store(tile_sums + tile * size + columns, tl.sum(gradient, 0), mask=columns < size)


@triton.jit
def token_gradient_kernel(
    pre_gradients,  # [rows, size]
    sum_gradients,  # [rows, hidden], which reach the tokens through the residual
    order,
    ends,
    weight,
    token_gradients,  # [tokens, hidden]
    hidden,
    size,
    experts,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Go back through ``x W1`` and the residual, to the order of the tokens."""
    blocks = tl.cdiv(hidden, COLUMNS)
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    expert, first, end = find_tile(ends, experts, tile, ROWS)
    if first >= end:
        return
    rows = first + tl.arange(0, ROWS)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.minimum(rows, end - 1)
    gradient = multiply(
        pre_gradients + row[:, None] * size,
        weight + expert * hidden * size + (columns % hidden)[None, :] * size,
        size,
        1,
        PRECISION,
        ROWS,
        COLUMNS,
        DEPTH,
        EVEN,
        TRANSPOSED=True,
    )
    inside = (rows < end)[:, None] & (columns < hidden)[None, :]
    gradient += tl.load(sum_gradients + row[:, None] * hidden + columns[None, :], mask=inside).to(tl.float32)
    cells = tl.load(order + row).to(tl.int32)[:, None] * hidden + columns[None, :]
    tl.store(token_gradients + cells, gradient, mask=inside)


@triton.jit
def weight_gradient_kernel(
    inputs,  # [tokens, width] if GATHERED, else [rows, width]
    gradients,  # [rows, columns], of the product
    order,
    ends,
    weight_gradients,  # [experts, width, columns]
    input_width,
    gradient_width,
    GATHERED: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Multiply the transposed inputs of each expert with the gradients of its product."""
    across, along = tl.cdiv(gradient_width, COLUMNS), tl.cdiv(input_width, ROWS)
    expert = tl.program_id(0) // (across * along)
    place = tl.program_id(0) % (across * along)
    m = place // across * ROWS + tl.arange(0, ROWS)
    n = place % across * COLUMNS + tl.arange(0, COLUMNS)
    left, right = inputs + (m % input_width)[:, None], gradients + (n % gradient_width)[None, :]
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    end = tl.load(ends + expert)
    for start in range(tl.load(ends + expert - 1, mask=expert > 0, other=0), end, DEPTH):
        rows = start + tl.arange(0, DEPTH)
        input_rows = tl.load(order + rows, mask=rows < end, other=0).to(tl.int32) if GATHERED else rows
        a = tl.load(left + input_rows[None, :] * input_width, mask=(rows < end)[None, :], other=0.0)
        b = tl.load(right + rows[:, None] * gradient_width, mask=(rows < end)[:, None], other=0.0)
        product = tl.dot(a, b, product, input_precision=PRECISION)
    cells = (expert * input_width + m)[:, None] * gradient_width + n[None, :]
    inside = (m < input_width)[:, None] & (n < gradient_width)[None, :]
    tl.store(weight_gradients + cells, product, mask=inside)


@triton.jit
def sum_tiles_kernel(
    tile_sums,  # [tiles, vectors, width]
    ends,
    totals,  # [vectors, experts, width]
    vectors,
    width,
    experts,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sum over each expert's tiles."""
    expert = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < vectors * width
    _, _, tiles = segments(ends, experts, ROWS)
    index = tl.arange(0, MAX_EXPERTS)
    first = tl.sum(tl.where(index < expert, tiles, 0), 0)
    last = first + tl.sum(tl.where(index == expert, tiles, 0), 0)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(first, last, TILES):
        tile = start + tl.arange(0, TILES)
        cells = tile[:, None] * vectors * width + columns[None, :]
        total += tl.sum(
            tl.load(tile_sums + cells, mask=(tile < last)[:, None] & inside[None, :], other=0.0), 0
        )
    vector, column = columns // width, columns % width
    tl.store(totals + (vector * experts + expert) * width + column, total, mask=inside)
