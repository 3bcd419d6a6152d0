"""Triton kernels of the experts' forward pass, and what they share with the backward pass.

Rows are the tokens sorted by expert. A tile is a block of rows of one expert; which one, each program finds out from
the ends of the experts' segments, so the host needs to know no more than a bound on the number of tiles. Matrices lie
as in ExpertWeights. Products are accumulated, and everything but products is computed, in single precision. Offsets
are 32 bits wide. Each kernel walks the rows the other way than the one before it, over what still lies in the cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAX_EXPERTS = tl.constexpr(64)


@triton.jit
def up_kernel(
    tokens,  # [tokens, hidden]
    order,
    ends,
    weight,
    bias,
    activations,  # [rows, size]
    slopes,  # [rows, size], of the activation; written if KEEP
    hidden,
    size,
    experts,
    KEEP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Compute ``activation(x W1 + b1)``, gathering the tokens on the way in."""
    blocks = tl.cdiv(size, COLUMNS)
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    expert, first, end = find_tile(ends, experts, tile, ROWS)
    if first >= end:
        return
    rows = first + tl.arange(0, ROWS)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    token = tl.load(order + tl.minimum(rows, end - 1)).to(tl.int32)
    z = multiply(
        tokens + token[:, None] * hidden,
        weight + expert * hidden * size + (columns % size)[None, :],
        hidden,
        size,
        PRECISION,
        ROWS,
        COLUMNS,
        DEPTH,
        EVEN,
    )
    inside = (rows < end)[:, None] & (columns < size)[None, :]
    z += tl.load(bias + expert * size + columns, mask=columns < size).to(tl.float32)[None, :]
    cells = rows[:, None] * size + columns[None, :]
    value, slope = activate(z, ACTIVATION)
    tl.store(activations + cells, value, mask=inside)
    if KEEP:
        tl.store(slopes + cells, slope, mask=inside)


@triton.jit
def down_kernel(
    activations,  # [rows, size]
    tokens,  # [tokens, hidden], the residual
    order,
    ends,
    weight,
    bias,
    seed,
    sums,  # [tokens, hidden]
    hidden,
    size,
    experts,
    dropout,
    scale,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Compute ``x + dropout(h W2 + b2)``, back in the order of the tokens."""
    blocks = tl.cdiv(hidden, COLUMNS)
    place = tl.num_programs(0) - 1 - tl.program_id(0)
    tile, block = place // blocks, place % blocks
    expert, first, end = find_tile(ends, experts, tile, ROWS)
    if first >= end:
        return
    rows = first + tl.arange(0, ROWS)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.minimum(rows, end - 1)
    y = multiply(
        activations + row[:, None] * size,
        weight + expert * size * hidden + (columns % hidden)[None, :],
        size,
        hidden,
        PRECISION,
        ROWS,
        COLUMNS,
        DEPTH,
        EVEN,
    )
    inside = (rows < end)[:, None] & (columns < hidden)[None, :]
    cells = tl.load(order + row).to(tl.int32)[:, None] * hidden + columns[None, :]
    y += tl.load(bias + expert * hidden + columns, mask=columns < hidden).to(tl.float32)[None, :]
    if DROPOUT:
        y = drop(y, seed, cells, dropout, scale)
    y += tl.load(tokens + cells, mask=inside).to(tl.float32)
    tl.store(sums + cells, y, mask=inside)


@triton.jit
def norm_kernel(
    sums,  # [tokens, hidden]
    order,
    expert_ids,
    norm,
    norm_bias,
    probability,  # [tokens]
    outputs,  # [tokens, hidden]; may be the memory of the sums
    means,  # [tokens], written if KEEP
    rates,  # [tokens], one over the standard deviations, written if KEEP
    tokens,
    hidden,
    eps,
    GATED: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute ``p LayerNorm_e(sums)``."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = rows < tokens
    token = tl.load(order + rows, mask=valid, other=0).to(tl.int32)
    expert = tl.load(expert_ids + token, mask=valid, other=0).to(tl.int32)
    column = tl.arange(0, WIDTH)
    inside = valid[:, None] & (column < hidden)[None, :]
    cells = token[:, None] * hidden + column[None, :]
    own = expert[:, None] * hidden + column[None, :]
    x = tl.load(sums + cells, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, 1) / hidden
    centred = tl.where((column < hidden)[None, :], x - mean[:, None], 0.0)
    rate = tl.rsqrt(tl.sum(centred * centred, 1) / hidden + eps)
    gain = tl.load(norm + own, mask=inside, other=0.0).to(tl.float32)
    out = centred * rate[:, None] * gain + tl.load(norm_bias + own, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        out *= tl.load(probability + token, mask=valid, other=0.0).to(tl.float32)[:, None]
    tl.store(outputs + cells, out, mask=inside)
    if KEEP:
        tl.store(means + token, mean, mask=valid)
        tl.store(rates + token, rate, mask=valid)


@triton.jit
def find_tile(ends, experts, tile, ROWS: tl.constexpr):
    """Return a tile's expert and its rows from first to end; no rows if there is no such tile."""
    starts, stops, tiles = segments(ends, experts, ROWS)
    last_tiles = tl.cumsum(tiles, 0)
    expert = tl.sum((last_tiles <= tile).to(tl.int32), 0)
    own = tl.arange(0, MAX_EXPERTS) == expert
    first = tl.sum(tl.where(own, starts + (tile - last_tiles + tiles) * ROWS, 0), 0)
    end = tl.sum(tl.where(own, stops, 0), 0)
    return expert, first, end


@triton.jit
def segments(ends, experts, ROWS: tl.constexpr):
    """Return where the experts' rows start and stop, and how many tiles they fill, ``[MAX_EXPERTS]`` each."""
    expert = tl.arange(0, MAX_EXPERTS)
    stops = tl.load(ends + expert, mask=expert < experts, other=0)
    starts = tl.load(ends + expert - 1, mask=(expert > 0) & (expert < experts), other=0)
    return starts, stops, tl.cdiv(stops - starts, ROWS)


@triton.jit
def multiply(
    left,
    right,
    depth,
    stride,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    TRANSPOSED: tl.constexpr = False,
):
    """Multiply the rows that ``left`` points to with the columns that ``right`` points to.

    ``left`` is ``[ROWS, 1]``, pointers to the first elements of rows that lie side by side; ``right`` is
    ``[1, COLUMNS]``, pointers to the first elements of columns whose elements lie ``stride`` apart, 1 if TRANSPOSED.
    EVEN says that the depth is a multiple of DEPTH.
    """
    k = tl.arange(0, DEPTH)
    left += k[None, :]
    right += k[:, None] if TRANSPOSED else k[:, None] * stride
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        if EVEN:
            a, b = tl.load(left), tl.load(right)
        else:
            a = tl.load(left, mask=start + k[None, :] < depth, other=0.0)
            b = tl.load(right, mask=start + k[:, None] < depth, other=0.0)
        product = tl.dot(a, b, product, input_precision=PRECISION)
        left += DEPTH
        right += DEPTH if TRANSPOSED else DEPTH * stride
    return product


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """Return φ(z) and φ'(z)."""
    if ACTIVATION == "relu":
        value, slope = tl.maximum(z, 0.0), (z > 0.0).to(tl.float32)
    elif ACTIVATION == "gelu_tanh":
        gate = tl.sigmoid(1.5957691216 * (z + 0.044715 * z * z * z))
        value, slope = z * gate, gate + z * gate * (1.0 - gate) * 1.5957691216 * (1.0 + 0.134145 * z * z)
    else:
        probability, density = gaussian(z)
        value, slope = z * probability, probability + z * density
    return value, slope


@triton.jit
def gaussian(z):
    """Return the standard normal distribution function and density.

    By formula 7.1.26 of Abramowitz and Stegun, off by less than 1e-7, so that both share one exponential.
    """
    bell = tl.exp(-0.5 * z * z)
    t = 1.0 / (1.0 + 0.2316418882 * tl.abs(z))
    series = t * (
        0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145)))
    )
    tail = series * bell
    return tl.where(z < 0.0, tail, 1.0 - tail), 0.3989422804 * bell


@triton.jit
def drop(y, seed, cells, dropout, scale):
    """Zero elements with the probability ``dropout`` and scale the others; the same ones for the same seed."""
    # a hash of place and seed (lowbias32 of Wellons): Philox does not fit into the registers here
    bits = cells.to(tl.uint32) ^ tl.load(seed).to(tl.uint32)
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    bits = bits ^ (bits >> 16)
    keep = (bits >> 8).to(tl.float32) * 2.0**-24 >= dropout
    return tl.where(keep, y * scale, 0.0)
