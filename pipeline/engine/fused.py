"""Two passes over activations as one kernel each, in Triton, which torch's CUDA build brings: ModernBERT's turn of
queries and keys by position, and its gated GELU.

Written in operators they are a third of what a layer moves through a GPU's memory. Intermediate results are rounded
where the operators round them: the turn is theirs to the bit, the gated GELU but for last bits far below 0. Triton
compiles them with the C compiler it finds, once, and keeps them on disk; where that does not work the operators run.
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
"""Elements of a program of the gated GELU."""


def runs(rows: torch.Tensor) -> bool:
    """Whether the kernels take these rows: bf16 on a GPU for which Triton compiles."""
    return rows.is_cuda and rows.dtype is torch.bfloat16 and _work(rows.device)


def version(device: torch.device) -> str | None:
    """Triton's, where the kernels run for bf16 on this device: another one, or none, may give other last bits."""
    return str(triton.__version__) if device.type == "cuda" and _work(device) else None


@cache
def _work(device: torch.device) -> bool:
    """Whether the kernels compile and give what operators do, tried once a process."""
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
    wanted = torch.cat([low * c - high * s, high * c + low * s], dim=-1)
    found = turned(rows, rows, rows, cos.repeat(1, 2), sin.repeat(1, 2))
    flat = rows.view(40, 192)
    inner, gate = flat.chunk(2, dim=-1)
    given = gate.flip(0).contiguous()
    bent = F.gelu(inner)
    slopes = torch.ops.aten.gelu_backward(given * gate, inner)
    return all(
        torch.allclose(one.float(), other.float(), rtol=2**-6, atol=1e-3)
        for one, other in (
            (found[:, 0], wanted), (found[:, 1], wanted), (found[:, 2], rows), (gated(flat), bent * gate),
            (gated_gradient(flat, given), torch.cat([slopes, given * bent], dim=-1)),
        )
    )  # fmt: skip


def turned(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """Queries and keys turned by position, and values as they are, side by side.

    Args:
        query: (tokens, heads, size), a token's heads one after another.
        key: as `query`.
        value: as `query`.
        cos: (tokens, size) fp32, equal in both halves.
        sin: as `cos`; negated it turns back.

    Returns:
        (tokens, 3, heads, size).
    """
    tokens, heads, size = query.shape
    found = query.new_empty(tokens, 3, heads, size)
    half = heads * size // 2
    _turn[(tokens, 3)](
        query, key, value, query.stride(0), key.stride(0), value.stride(0), cos.contiguous(), sin.contiguous(), found,
        half, size, triton.next_power_of_2(half), enable_fp_fusion=False,
    )  # fmt: skip
    return found


def gated(rows: torch.Tensor) -> torch.Tensor:
    """GELU of each row's first half times its second: (tokens, 2 x width) to (tokens, width)."""
    tokens, width = rows.shape[0], rows.shape[1] // 2
    found = rows.new_empty(tokens, width)
    _gate[(triton.cdiv(found.numel(), BLOCK),)](rows, found, found.numel(), width, BLOCK, enable_fp_fusion=False)
    return found


def gated_gradient(rows: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient of `rows` (tokens, 2 x width) where that of `gated` is `gradient` (tokens, width)."""
    found = torch.empty_like(rows)
    count = gradient.numel()
    _gate_back[(triton.cdiv(count, BLOCK),)](
        rows, gradient, found, count, gradient.shape[1], BLOCK, enable_fp_fusion=False
    )
    return found


def _jit(kernel: Any) -> Any:
    return kernel if triton is None else triton.jit(kernel)


@_jit
def _turn(  # type: ignore[no-untyped-def]
    query, key, value, query_step, key_step, value_step, cos, sin, found,
    HALF: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tl.arange(0, BLOCK)
    inside = place < HALF
    low = place // (SIZE // 2) * SIZE + place % (SIZE // 2)
    high = low + SIZE // 2
    rows, step = query, query_step
    if part == 1:
        rows, step = key, key_step
    if part == 2:
        rows, step = value, value_step
    one = tl.load(rows + token * step + low, inside)
    two = tl.load(rows + token * step + high, inside)
    if part < 2:
        c = tl.load(cos + token * SIZE + place % (SIZE // 2), inside)
        s = tl.load(sin + token * SIZE + place % (SIZE // 2), inside)
        first, second = one.to(tl.float32), two.to(tl.float32)
        one, two = (first * c - second * s).to(one.dtype), (second * c + first * s).to(one.dtype)
    out = found + (token * 3 + part) * (2 * HALF)
    tl.store(out + low, one, inside)
    tl.store(out + high, two, inside)


@_jit
def _gate(rows, found, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    at = place // WIDTH * (2 * WIDTH) + place % WIDTH
    one, two = tl.load(rows + at, inside), tl.load(rows + at + WIDTH, inside)
    x = one.to(tl.float32)
    bent = (x * 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))).to(one.dtype)
    tl.store(found + place, (bent.to(tl.float32) * two.to(tl.float32)).to(one.dtype), inside)


@_jit
def _gate_back(rows, gradient, found, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    at = place // WIDTH * (2 * WIDTH) + place % WIDTH
    one, two = tl.load(rows + at, inside), tl.load(rows + at + WIDTH, inside)
    given = tl.load(gradient + place, inside).to(tl.float32)
    x = one.to(tl.float32)
    cdf = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    bent = (x * cdf).to(one.dtype).to(tl.float32)
    slope = cdf + x * (tl.exp(-0.5 * x * x) * 0.3989422804014327)
    through = (given * two.to(tl.float32)).to(one.dtype).to(tl.float32)
    tl.store(found + at, (through * slope).to(one.dtype), inside)
    tl.store(found + at + WIDTH, (given * bent).to(one.dtype), inside)
