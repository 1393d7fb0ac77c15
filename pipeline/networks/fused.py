"""The choice between the Triton kernels (`kernels`) and torch operators.

torch's CUDA build includes Triton, which compiles the kernels once, with the C compiler it finds, and caches them on
disk. Where this fails, or the kernels' results differ from the operators', the operators run.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch.nn import functional as F

from pipeline.core.errors import one_line, out_of_gpu_memory
from pipeline.networks import kernels

log = logging.getLogger(__name__)


def available_for(rows: torch.Tensor) -> bool:
    """Return whether the kernels take these rows: bf16 on a GPU for which Triton compiles."""
    return rows.is_cuda and rows.dtype is torch.bfloat16 and _work(rows.device)


def version(device: torch.device) -> str | None:
    """Return Triton's version if bf16 kernels run on this device, else None; versions may differ in last bits."""
    if device.type != "cuda":
        return None
    tried = torch.device("cuda", device.index or 0)  # as rows name it, so that the kernels are tried once
    return kernels.triton_version() if _work(tried) else None


@cache
def _work(device: torch.device) -> bool:
    """Return whether the kernels compile and agree with the operators; tried once per process and device."""
    if kernels.triton_version() is None:
        log.info("fused kernels off: Triton is not installed")
        return False
    try:
        agree = _agree_with_operators(device)
    except Exception as error:  # no C compiler, no headers, a GPU Triton does not know
        if isinstance(error, RuntimeError) and out_of_gpu_memory(error):
            raise
        log.info("fused kernels off: Triton does not compile (%s)", one_line(error)[:200])
        return False
    if not agree:
        log.warning("fused kernels off: on this GPU their results differ from torch's operators")
    return agree


def _agree_with_operators(device: torch.device) -> bool:
    compared = (*_rotary(device), *_geglu(device), *_add_norm(device))
    return all(torch.allclose(one.float(), other.float(), rtol=2**-6, atol=1e-3) for one, other in compared)


Compared = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Results of a kernel and of operators, pairwise. Inputs are not random: training draws from the same generator."""


def _rotary(device: torch.device) -> Compared:
    query = torch.linspace(-4, 4, 40 * 3 * 64, device=device).view(40, 3, 64).bfloat16()
    key, value = query.flip(0), query.flip(1)
    angles = torch.linspace(-3, 3, 40 * 32, device=device).view(40, 32)
    cos, sin = angles.cos(), angles.sin()
    c = cos[:, None]
    results = []
    for is_gradient, s in ((False, sin[:, None]), (True, -sin[:, None])):
        packed = kernels.apply_rotary(query, key, value, cos.repeat(1, 2), sin.repeat(1, 2), is_gradient=is_gradient)
        for index, rows in enumerate((query, key)):
            low, high = rows.float().chunk(2, dim=-1)
            results.append((packed[:, index], torch.cat([low * c - high * s, high * c + low * s], dim=-1)))
        results.append((packed[:, 2], value))
    return tuple(results)


def _geglu(device: torch.device) -> Compared:
    rows = torch.linspace(-4, 4, 40 * 192, device=device).view(40, 192).bfloat16()
    inner, gate = rows.chunk(2, dim=-1)
    grad_output = gate.flip(0).contiguous()
    activated = F.gelu(inner)
    grad_inner = torch.ops.aten.gelu_backward(grad_output * gate, inner)
    return (
        (kernels.geglu(rows), activated * gate),
        (kernels.geglu_backward(rows, grad_output), torch.cat([grad_inner, grad_output * activated], dim=-1)),
    )


def _add_norm(device: torch.device) -> Compared:
    rows, width = kernels.SUMS + 40, 96
    x = torch.linspace(-4, 4, rows * width, device=device).view(rows, width).sin()
    branch, grad = x.flip(0).bfloat16(), x.flip(1).bfloat16()
    weight = torch.linspace(0.5, 2, width, device=device)
    total = x + branch
    normed, mean, rstd = torch.native_layer_norm(total, (width,), weight, None, 1e-5)
    grad_total, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
        grad.float(), total, (width,), mean, rstd, weight, None, [True, True, False]
    )
    found = kernels.add_norm(x, branch, weight, 1e-5)
    found_grads = kernels.add_norm_backward(x, grad, found[0], found[2], found[3], weight)
    expected = (total, normed, mean.flatten(), rstd.flatten(), grad_total + x, grad_total + x, grad_weight)
    return tuple(zip((*found, *found_grads), expected, strict=True))
