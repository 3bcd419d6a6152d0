"""Triton kernels of the lean encoder: each reads its inputs once, writes its outputs once, and computes in float32.

A program has ROWS tokens and all columns, or COLUMNS of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from moebert.experts.triton_kernels import activate


@triton.jit
def embed_kernel(
    input_ids,
    token_type_ids,
    position_ids,
    words,
    types,
    positions,
    norm,
    norm_bias,
    outputs,  # [tokens, hidden]
    tokens,
    hidden,
    eps,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute ``LayerNorm(word + type + position)``."""
    row, column, valid, inside = block(tokens, hidden, ROWS, WIDTH)
    word = tl.load(input_ids + row, mask=valid, other=0)
    kind = tl.load(token_type_ids + row, mask=valid, other=0)
    position = tl.load(position_ids + row, mask=valid, other=0)
    x = tl.load(words + word[:, None] * hidden + column, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(types + kind[:, None] * hidden + column, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(positions + position[:, None] * hidden + column, mask=inside, other=0.0).to(tl.float32)
    y, _mean, _rate = normalise(x, norm, norm_bias, column, hidden, eps)
    tl.store(outputs + row[:, None] * hidden + column, y, mask=inside)


@triton.jit
def add_norm_kernel(
    x,  # [tokens, hidden]
    bias,
    residual,  # [tokens, hidden]
    order,  # [tokens], where to take each row from if SORTED
    norm,
    norm_bias,
    outputs,  # [tokens, hidden]
    sums,  # [tokens, hidden]; written if KEEP
    means,  # [tokens], float32; written if KEEP
    rates,  # [tokens], float32, one over the standard deviations; written if KEEP
    tokens,
    hidden,
    eps,
    KEEP: tl.constexpr,
    SORTED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute ``LayerNorm(x + bias + residual)``."""
    row, column, valid, inside = block(tokens, hidden, ROWS, WIDTH)
    token = tl.load(order + row, mask=valid, other=0) if SORTED else row
    cells = row[:, None] * hidden + column
    taken = token[:, None] * hidden + column
    total = tl.load(x + taken, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + taken, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + column, mask=column < hidden, other=0.0).to(tl.float32)
    y, mean, rate = normalise(total, norm, norm_bias, column, hidden, eps)
    tl.store(outputs + cells, y, mask=inside)
    if KEEP:
        tl.store(sums + cells, total, mask=inside)
        tl.store(means + row, mean, mask=valid)
        tl.store(rates + row, rate, mask=valid)


@triton.jit
def expert_norm_kernel(
    x,  # [rows, hidden], sorted
    residual,  # [rows, hidden], sorted
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
    """Compute ``LayerNorm_e(x + residual)``, back in the order of the tokens."""
    row, column, valid, inside = block(tokens, hidden, ROWS, WIDTH)
    token = tl.load(order + row, mask=valid, other=0)
    expert = tl.load(expert_ids + token, mask=valid, other=0)
    cells = row[:, None] * hidden + column
    total = tl.load(x + cells, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + cells, mask=inside, other=0.0).to(tl.float32)
    standard, _mean, _rate = standardise(total, column, hidden, eps)
    own = expert[:, None] * hidden + column
    gain = tl.load(norm + own, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias + own, mask=inside, other=0.0).to(tl.float32)
    tl.store(outputs + token[:, None] * hidden + column, standard * gain + shift, mask=inside)


@triton.jit
def bias_gelu_kernel(
    x,  # [tokens, size]
    bias,
    outputs,  # [tokens, size]
    tokens,
    size,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute ``gelu(x + bias)``."""
    row, column, _valid, inside = block(tokens, size, ROWS, COLUMNS)
    cells = row[:, None] * size + column
    z = tl.load(x + cells, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(bias + column, mask=column < size, other=0.0).to(tl.float32)
    if x.dtype.element_ty == tl.float32:
        value, _slope = activate(z, "gelu")
    else:
        value = gelu(z)
    tl.store(outputs + cells, value, mask=inside)


@triton.jit
def bias_gelu_gradient_kernel(
    gradients,  # [tokens, size]
    x,  # [tokens, size]
    bias,
    outputs,  # [tokens, size]
    tokens,
    size,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the gradient of ``x`` (and of what is added to it)."""
    row, column, _valid, inside = block(tokens, size, ROWS, COLUMNS)
    cells = row[:, None] * size + column
    z = tl.load(x + cells, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(bias + column, mask=column < size, other=0.0).to(tl.float32)
    _value, slope = activate(z, "gelu")
    upstream = tl.load(gradients + cells, mask=inside, other=0.0).to(tl.float32)
    tl.store(outputs + cells, upstream * slope, mask=inside)


@triton.jit
def gate_kernel(
    x,  # [rows, hidden]
    weight,  # [experts, hidden]
    probabilities,  # [rows]
    expert_ids,  # [rows], int64
    rows,
    hidden,
    experts,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Find the likeliest expert, of equally likely ones the first, and its probability."""
    row, column, valid, inside = block(rows, hidden, ROWS, WIDTH)
    seen = tl.load(x + row[:, None] * hidden + column, mask=inside, other=0.0).to(tl.float32)
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    winner = tl.zeros((ROWS,), tl.int64)
    total = tl.zeros((ROWS,), tl.float32)  # of exponentials, relative to the best
    for expert in range(experts):
        own = tl.load(weight + expert * hidden + column, mask=column < hidden, other=0.0).to(tl.float32)
        logit = tl.sum(seen * own, 1)
        higher = tl.maximum(best, logit)
        total = total * tl.exp(best - higher) + tl.exp(logit - higher)
        winner = tl.where(logit > best, expert, winner)
        best = higher
    tl.store(probabilities + row, 1.0 / total, mask=valid)
    tl.store(expert_ids + row, winner, mask=valid)


@triton.jit
def block(tokens, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return a program's rows ``[ROWS]``, columns ``[1, COLUMNS]``, and which of them there are."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    valid = row < tokens
    return row, column, valid, valid[:, None] & (column < width)


@triton.jit
def gelu(z):
    """Return ``z Φ(z)`` for half precision: off by less than 2e-6, in fewer steps than the exponential takes.

    Φ(z) - 1/2 is z times a polynomial in s, which is z² brought from [0, 25] to [-1, 1]; farther out Φ is 0 or 1. The
    coefficients are a least-squares fit in Chebyshev polynomials, its errors weighted by z².
    """
    s = tl.minimum(z * z, 25.0) * 0.08 - 1.0
    q = s * 0.00047080216 - 0.00149243935
    q = q * s + 0.00205243184
    q = q * s - 0.00296503514
    q = q * s + 0.00612416044
    q = q * s - 0.0109331679
    q = q * s + 0.0165121199
    q = q * s - 0.0233506423
    q = q * s + 0.0314241985
    q = q * s - 0.0404310324
    q = q * s + 0.0515215008
    q = q * s - 0.0702967237
    q = q * s + 0.14136378
    return z * tl.clamp(z * q + 0.5, 0.0, 1.0)


@triton.jit
def normalise(x, norm, norm_bias, column, hidden, eps):
    """Return the LayerNorm of rows, their means, and one over their standard deviations."""
    standard, mean, rate = standardise(x, column, hidden, eps)
    gain = tl.load(norm + column, mask=column < hidden, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias + column, mask=column < hidden, other=0.0).to(tl.float32)
    return standard * gain + shift, mean, rate


@triton.jit
def standardise(x, column, hidden, eps):
    """Return rows of mean 0 and deviation 1, their means, and one over their standard deviations."""
    mean = tl.sum(x, 1) / hidden
    centred = tl.where(column < hidden, x - mean[:, None], 0.0)
    rate = tl.rsqrt(tl.sum(centred * centred, 1) / hidden + eps)
    return centred * rate[:, None], mean, rate


@triton.jit
def gelu_by_tanh(z):
    """Return ``z Φ(z)`` for bf16 in half as many steps, by the hardware's tanh, which is wrong by up to 2⁻¹¹ of itself.

    Off by at most 2⁻¹² of z plus 3e-5: for normally distributed z a fifth of what bf16 rounds off, taken together, but
    more than a result close to 0 below z = -1.4. Φ(z) is 1/2 + tanh(z p(z²)) / 2; the polynomial p is a minimax fit.
    """
    square = tl.minimum(z * z, 49.0)  # farther out p would turn round
    p = square * -3.51516791e-4 + 0.03700564605
    p = p * square + 0.797507885
    tanh = tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [z * p], dtype=tl.float32, is_pure=True, pack=1
    )
    half = 0.5 * z
    return half * tanh + half
