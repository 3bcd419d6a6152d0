"""Triton kernels of products that Hopper's tensor memory accelerator feeds, which fetches whole blocks of neighbours.

A program computes one tile after another (a persistent kernel). Its two loops, over tiles and over the depth of a
product, are one to the compiler, so that the first blocks of the next tile are fetched while a tile is finished. Two
programs share a multiprocessor: one multiplies while the other applies the activation and stores.
"""

from __future__ import annotations

import triton
import triton.language as tl

from moebert.experts.triton_kernels import find_tile, segments
from moebert.lean.triton_kernels import gelu, gelu_by_tanh


@triton.jit
def tiles_kernel(
    ends,  # [layers, experts]
    tiles,  # [layers, bound, 3], of each tile: its expert, its first row, where its expert's rows end
    counts,  # [layers]
    bound,
    experts,
    ROWS: tl.constexpr,
):
    """List the tiles of each layer."""
    tile, layer = tl.program_id(0), tl.program_id(1)
    expert, first, end = find_tile(ends + layer * experts, experts, tile, ROWS)
    entry = tiles + (layer * bound + tile) * 3
    tl.store(entry, expert)
    tl.store(entry + 1, first)
    tl.store(entry + 2, end)
    if tile == 0:
        _starts, _stops, own = segments(ends + layer * experts, experts, ROWS)
        tl.store(counts + layer, tl.sum(own, 0))


@triton.jit(do_not_specialize_on_alignment=["tiles", "counts"])  # which layers' are aligned is chance
def product_kernel(
    left,  # descriptor of [rows, depth]
    right,  # descriptor of [experts * depth, width], or of [width, depth] if TRANSPOSED
    bias,  # [experts, width]
    outputs,  # [rows, width]
    tiles,  # [bound, 3]; None where there is one matrix for all rows
    counts,  # [], of tiles
    rows,
    depth,
    width,
    GELU: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BACKWARDS: tl.constexpr,  # from the last tile to the first
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Compute ``left W + bias``, or its GELU, each row by the matrix of its expert.

    A tile's last rows may belong to the next expert: they are multiplied too, and not stored. Past the depth ``left``
    is filled with zeros, so what ``right`` has there does not matter.
    """
    parts = tl.cdiv(width, COLUMNS)
    places = (tl.cdiv(rows, ROWS) if tiles is None else tl.load(counts)) * parts
    for number in tl.range(tl.program_id(0), places, tl.num_programs(0), flatten=True):
        place = places - 1 - number if BACKWARDS else number
        tile, column = place // parts, place % parts * COLUMNS
        if tiles is None:
            expert, first, end = 0, tile * ROWS, rows
        else:
            expert = tl.load(tiles + tile * 3)
            first = tl.load(tiles + tile * 3 + 1)
            end = tl.load(tiles + tile * 3 + 2)
        product = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, depth, DEPTH):
            a = left.load([first, start])
            b = right.load([column, start]).T if TRANSPOSED else right.load([expert * depth + start, column])
            product = tl.dot(a, b, product)
        own_bias = bias + expert * width
        if COLUMNS > 64:  # in halves, so that the shared memory of two programs fits a multiprocessor
            half: tl.constexpr = COLUMNS // 2
            one, other = tl.permute(tl.reshape(product, (ROWS, 2, half)), (0, 2, 1)).split()
            finish(one, own_bias, outputs, first, end, column, width, GELU)
            finish(other, own_bias, outputs, first, end, column + half, width, GELU)
        else:
            finish(product, own_bias, outputs, first, end, column, width, GELU)


@triton.jit
def finish(product, bias, outputs, first, end, column, width, GELU: tl.constexpr):
    """Add the bias, apply the activation and store."""
    row = first + tl.arange(0, product.shape[0])[:, None]
    columns = column + tl.arange(0, product.shape[1])[None, :]
    product += tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)
    if GELU:
        # in all, the faster one is wrong by a fifth of what bf16 rounds off
        product = gelu_by_tanh(product) if outputs.dtype.element_ty == tl.bfloat16 else gelu(product)
    tl.store(outputs + row * width + columns, product, mask=(row < end) & (columns < width))
