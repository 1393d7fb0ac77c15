"""Triton kernels for what ModernBERT's layers do besides matmuls and attention, and the functions that launch them.

Each kernel reads and writes once what operators pass through a GPU's memory several times. Intermediate results are
rounded where the operators round them: rotary embeddings equal the operators' to the bit, GeGLU except for last bits
far below 0, norms except for the order of their sums. On one GPU the order of every sum is fixed.
"""

from __future__ import annotations

from typing import Any

import torch

try:
    import triton
    from triton import language as tl
except ImportError:  # torch's CPU build does not include it
    triton = None

BLOCK = 1024
"""Elements that one program of the GeGLU kernels computes."""

SUMS = 512
"""Most programs that share a norm's rows in the backward pass; each leaves one sum for the weight's gradient."""


def triton_version() -> str | None:
    """Return Triton's version, None where it is not installed."""
    return None if triton is None else str(triton.__version__)


def apply_rotary(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *,
    is_gradient: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Apply rotary position embeddings to queries and keys; copy values as they are.

    Args:
        query: (tokens, heads, size), each token's heads contiguous.
        key: as `query`.
        value: as `query`.
        cos: (tokens, size) fp32, equal in both halves.
        sin: as `cos`.
        is_gradient: whether the inputs are gradients, which are rotated by the negative angle.

    Returns:
        Queries, keys and values, (tokens, 3, heads, size).
    """
    tokens, heads, size = query.shape
    output = query.new_empty(tokens, 3, heads, size)
    half = heads * size // 2
    _rotary_kernel[(tokens, 3)](
        query, key, value, query.stride(0), key.stride(0), value.stride(0), cos.contiguous(), sin.contiguous(), output,
        half, size, triton.next_power_of_2(half), is_gradient, enable_fp_fusion=False,
    )  # fmt: skip
    return output


def geglu(rows: torch.Tensor) -> torch.Tensor:
    """Return GELU of each row's first half times its second half: (tokens, 2 x width) to (tokens, width)."""
    tokens, width = rows.shape[0], rows.shape[1] // 2
    output = rows.new_empty(tokens, width)
    _geglu_kernel[(triton.cdiv(output.numel(), BLOCK),)](
        rows, output, output.numel(), width, BLOCK, enable_fp_fusion=False
    )
    return output


def geglu_backward(rows: torch.Tensor, grad_output: torch.Tensor) -> torch.Tensor:
    """Return the gradient of `geglu`'s rows (tokens, 2 x width), given the gradient of its output (tokens, width)."""
    grad_rows = torch.empty_like(rows)
    count = grad_output.numel()
    _geglu_backward_kernel[(triton.cdiv(count, BLOCK),)](
        rows, grad_output, grad_rows, count, grad_output.shape[1], BLOCK, enable_fp_fusion=False
    )
    return grad_rows


def add_norm(
    x: torch.Tensor, branch: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute a residual sum and its LayerNorm without bias.

    Args:
        x: (rows, width) fp32.
        branch: (rows, width) bf16, added to x.
        weight: (width,) fp32.
        eps: added to the variance.

    Returns:
        x + branch, fp32; its LayerNorm, bf16; mean and reciprocal standard deviation of each row, (rows,) fp32.
    """
    rows, width = x.shape
    total, normed = torch.empty_like(x), torch.empty_like(branch)
    mean, rstd = x.new_empty(rows), x.new_empty(rows)
    _add_norm_kernel[(rows,)](
        x, branch, weight, total, normed, mean, rstd, eps, width, triton.next_power_of_2(width), enable_fp_fusion=False
    )
    return total, normed, mean, rstd


def add_norm_backward(
    grad_total: torch.Tensor, grad_normed: torch.Tensor, total: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor,
    weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the gradients of `add_norm`'s x, branch and weight.

    `grad_total` and `grad_normed` are the gradients of its first two results; total, mean and rstd are its results.
    """
    rows, width = total.shape
    programs = min(rows, SUMS)
    grad_x, grad_branch = torch.empty_like(total), torch.empty_like(grad_normed)
    sums = total.new_empty(programs, width)
    _add_norm_backward_kernel[(programs,)](
        grad_total, grad_normed, total, mean, rstd, weight, grad_x, grad_branch, sums, rows, width,
        triton.next_power_of_2(width), enable_fp_fusion=False,
    )  # fmt: skip
    return grad_x, grad_branch, sums.sum(dim=0)


def _jit(kernel: Any) -> Any:
    return kernel if triton is None else triton.jit(kernel)


@_jit
def _rotary_kernel(  # type: ignore[no-untyped-def]
    query, key, value, query_stride, key_stride, value_stride, cos, sin, output,
    HALF: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, IS_GRADIENT: tl.constexpr,
):  # fmt: skip
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < HALF
    low = offsets // (SIZE // 2) * SIZE + offsets % (SIZE // 2)
    high = low + SIZE // 2
    rows, stride = query, query_stride
    if part == 1:
        rows, stride = key, key_stride
    if part == 2:
        rows, stride = value, value_stride
    one = tl.load(rows + token * stride + low, mask)
    two = tl.load(rows + token * stride + high, mask)
    if part < 2:
        c = tl.load(cos + token * SIZE + offsets % (SIZE // 2), mask)
        s = tl.load(sin + token * SIZE + offsets % (SIZE // 2), mask)
        if IS_GRADIENT:
            s = -s
        first, second = one.to(tl.float32), two.to(tl.float32)
        one, two = (first * c - second * s).to(one.dtype), (second * c + first * s).to(one.dtype)
    out = output + (token * 3 + part) * (2 * HALF)
    tl.store(out + low, one, mask)
    tl.store(out + high, two, mask)


@_jit
def _geglu_kernel(rows, output, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < count
    at = offsets // WIDTH * (2 * WIDTH) + offsets % WIDTH
    inner, gate = tl.load(rows + at, mask), tl.load(rows + at + WIDTH, mask)
    x = inner.to(tl.float32)
    activated = (x * 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))).to(inner.dtype)
    tl.store(output + offsets, (activated.to(tl.float32) * gate.to(tl.float32)).to(inner.dtype), mask)


@_jit
def _geglu_backward_kernel(  # type: ignore[no-untyped-def]
    rows, grad_output, grad_rows, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < count
    at = offsets // WIDTH * (2 * WIDTH) + offsets % WIDTH
    inner, gate = tl.load(rows + at, mask), tl.load(rows + at + WIDTH, mask)
    grad = tl.load(grad_output + offsets, mask).to(tl.float32)
    x = inner.to(tl.float32)
    cdf = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    activated = (x * cdf).to(inner.dtype).to(tl.float32)
    slope = cdf + x * (tl.exp(-0.5 * x * x) * 0.3989422804014327)
    grad_activated = (grad * gate.to(tl.float32)).to(inner.dtype).to(tl.float32)
    tl.store(grad_rows + at, (grad_activated * slope).to(inner.dtype), mask)
    tl.store(grad_rows + at + WIDTH, (grad * activated).to(inner.dtype), mask)


@_jit
def _add_norm_kernel(  # type: ignore[no-untyped-def]
    x, branch, weight, total, normed, mean, rstd, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < WIDTH
    at = row * WIDTH + offsets
    sums = tl.load(x + at, mask, other=0.0) + tl.load(branch + at, mask, other=0.0).to(tl.float32)
    middle = tl.sum(sums, axis=0) / WIDTH
    centred = tl.where(mask, sums - middle, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / WIDTH + eps)
    output = centred * scale * tl.load(weight + offsets, mask)
    tl.store(total + at, sums, mask)
    tl.store(normed + at, output.to(normed.dtype.element_ty), mask)
    tl.store(mean + row, middle)
    tl.store(rstd + row, scale)


@_jit
def _add_norm_backward_kernel(  # type: ignore[no-untyped-def]
    grad_total, grad_normed, total, mean, rstd, weight, grad_x, grad_branch, sums, rows, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < WIDTH
    w = tl.load(weight + offsets, mask, other=0.0)
    grad_weight = tl.zeros([BLOCK], tl.float32)
    for turn in range(tl.cdiv(rows - program, programs)):
        row = (program + turn * programs).to(tl.int64)
        at = row * WIDTH + offsets
        scale = tl.load(rstd + row)
        unit = tl.where(mask, (tl.load(total + at, mask, other=0.0) - tl.load(mean + row)) * scale, 0.0)
        grad = tl.load(grad_normed + at, mask, other=0.0).to(tl.float32)
        grad_unit = grad * w
        along, level = tl.sum(grad_unit * unit, axis=0) / WIDTH, tl.sum(grad_unit, axis=0) / WIDTH
        result = (grad_unit - unit * along - level) * scale + tl.load(grad_total + at, mask, other=0.0)
        tl.store(grad_x + at, result, mask)
        tl.store(grad_branch + at, result.to(grad_branch.dtype.element_ty), mask)
        grad_weight += grad * unit
    tl.store(sums + program * WIDTH + offsets, grad_weight, mask)
