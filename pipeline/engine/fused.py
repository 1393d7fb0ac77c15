"""Triton kernels for two passes over ModernBERT's activations: rotary embedding of queries and keys, and GeGLU.

Written in operators these two are a third of what a layer moves through a GPU's memory. Intermediate results are
rounded where the operators round them: rotary equals them to the bit, GeGLU but for last bits far below 0. torch's
CUDA build brings Triton, which compiles the kernels once, with the C compiler it finds, and keeps them on disk; where
that does not work the operators run.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

from pipeline.core.errors import one_line, out_of_gpu_memory

try:
    import triton
    from triton import language as tl
except ImportError:  # torch's CPU build brings none
    triton = None

log = logging.getLogger(__name__)

BLOCK = 1024
"""Elements that one program of the GeGLU kernels computes."""


def available_for(rows: torch.Tensor) -> bool:
    """Whether the kernels take these rows: bf16 on a GPU for which Triton compiles."""
    return rows.is_cuda and rows.dtype is torch.bfloat16 and _work(rows.device)


def version(device: torch.device) -> str | None:
    """Triton's version where the kernels run for bf16 on this device, else None: another may give other last bits."""
    return str(triton.__version__) if device.type == "cuda" and _work(device) else None


@cache
def _work(device: torch.device) -> bool:
    """Whether the kernels compile and give what operators do; tried once per process and device."""
    if triton is None:
        log.info("fused kernels off: there is no Triton")
        return False
    try:
        agree = _agree_with_operators(device)
    except Exception as error:  # no C compiler, no headers, a card Triton does not know
        if isinstance(error, RuntimeError) and out_of_gpu_memory(error):
            raise
        log.info("fused kernels off, Triton does not compile: %s", one_line(error)[:200])
        return False
    if not agree:
        log.warning("fused kernels off: Triton's give something else than operators on this GPU")
    return agree


def _agree_with_operators(device: torch.device) -> bool:
    # No random numbers: training draws from the same generator.
    rows = torch.linspace(-4, 4, 40 * 3 * 64, device=device).view(40, 3, 64).bfloat16()
    angles = torch.linspace(-3, 3, 40 * 32, device=device).view(40, 32)
    cos, sin = angles.cos(), angles.sin()
    low, high = rows.float().chunk(2, dim=-1)
    c, s = cos[:, None], sin[:, None]
    rotated = torch.cat([low * c - high * s, high * c + low * s], dim=-1)
    packed = apply_rotary(rows, rows, rows, cos.repeat(1, 2), sin.repeat(1, 2))
    flat = rows.view(40, 192)
    inner, gate = flat.chunk(2, dim=-1)
    grad_output = gate.flip(0).contiguous()
    activated = F.gelu(inner)
    grad_inner = torch.ops.aten.gelu_backward(grad_output * gate, inner)
    return all(
        torch.allclose(one.float(), other.float(), rtol=2**-6, atol=1e-3)
        for one, other in (
            (packed[:, 0], rotated), (packed[:, 1], rotated), (packed[:, 2], rows), (geglu(flat), activated * gate),
            (geglu_backward(flat, grad_output), torch.cat([grad_inner, grad_output * activated], dim=-1)),
        )
    )  # fmt: skip


def apply_rotary(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """Rotary position embedding of queries and keys; values are copied as they are.

    Args:
        query: (tokens, heads, size), a token's heads one after another.
        key: as `query`.
        value: as `query`.
        cos: (tokens, size) fp32, equal in both halves.
        sin: as `cos`; negated, the result is the gradient.

    Returns:
        (tokens, 3, heads, size).
    """
    tokens, heads, size = query.shape
    output = query.new_empty(tokens, 3, heads, size)
    half = heads * size // 2
    _rotary_kernel[(tokens, 3)](
        query, key, value, query.stride(0), key.stride(0), value.stride(0), cos.contiguous(), sin.contiguous(), output,
        half, size, triton.next_power_of_2(half), enable_fp_fusion=False,
    )  # fmt: skip
    return output


def geglu(rows: torch.Tensor) -> torch.Tensor:
    """GELU of each row's first half times its second: (tokens, 2 x width) to (tokens, width)."""
    tokens, width = rows.shape[0], rows.shape[1] // 2
    output = rows.new_empty(tokens, width)
    _geglu_kernel[(triton.cdiv(output.numel(), BLOCK),)](
        rows, output, output.numel(), width, BLOCK, enable_fp_fusion=False
    )
    return output


def geglu_backward(rows: torch.Tensor, grad_output: torch.Tensor) -> torch.Tensor:
    """The gradient of `geglu`'s `rows` (tokens, 2 x width), given that of its output (tokens, width)."""
    grad_rows = torch.empty_like(rows)
    count = grad_output.numel()
    _geglu_backward_kernel[(triton.cdiv(count, BLOCK),)](
        rows, grad_output, grad_rows, count, grad_output.shape[1], BLOCK, enable_fp_fusion=False
    )
    return grad_rows


def _jit(kernel: Any) -> Any:
    return kernel if triton is None else triton.jit(kernel)


@_jit
def _rotary_kernel(  # type: ignore[no-untyped-def]
    query, key, value, query_stride, key_stride, value_stride, cos, sin, output,
    HALF: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
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
