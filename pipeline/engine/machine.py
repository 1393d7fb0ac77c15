"""Settings resolved on this machine: device, precision, attention, micro-batch size, and the scope of bit equality."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention, Device, RuntimeConfig
from pipeline.core import processor
from pipeline.core.allocation import let_segments_grow
from pipeline.core.errors import ResourceError, must
from pipeline.core.reproducibility import fix_cublas_workspace

CPU_TOKENS = 8192
"""Tokens of a micro-batch on a CPU with units for bf16: enough for matmuls at full rate; more is no faster."""

GPU_BYTES_PER_TOKEN_LAYER = 41
"""Activations kept for the backward pass, in bytes per token, layer and hidden unit: computed from ModernBERT's
tensor sizes under bf16 autocast with FlashAttention (BERT: 36, with dropout 40)."""

GPU_ACTIVATIONS = 0.4
"""Share of a GPU's memory for activations. ModernBERT-large's weights, gradients and AdamW moments take 7 of 24 GiB."""


def resolve_device(runtime: RuntimeConfig) -> torch.device:
    """Return the device a run uses; on a GPU, make matmuls repeatable and let memory segments grow.

    Raises:
        ResourceError: when a GPU is asked for and torch sees none.
    """
    if runtime.device is Device.cuda and not torch.cuda.is_available():
        raise ResourceError(
            must("runtime.device", "be a device torch can see", "cuda, but no GPU is visible",
                 f"Use runtime=cpu, or {_what_a_gpu_lacks()}.")
        )  # fmt: skip
    if runtime.device is Device.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    fix_cublas_workspace()
    let_segments_grow()
    return torch.device("cuda")


def _what_a_gpu_lacks() -> str:
    if torch.version.cuda:
        return f"install a driver that supports CUDA {torch.version.cuda}, which this torch is built for"
    return "install the CUDA build of torch (make setup)"


def resolve_attention(runtime: RuntimeConfig) -> Attention:
    """Return the attention backend; `auto` is `varlen`: little or no padding if the model allows, else SDPA/eager."""
    return Attention.varlen if runtime.attention is Attention.auto else runtime.attention


def resolve_precision(precision: Precision, device: torch.device) -> tuple[Precision, str]:
    """Resolve `auto` to bf16 or fp32, and give the reason.

    On a GPU bf16 needs compute capability 8.0. A CPU multiplies bf16 several times as fast as fp32 with AMX, about
    twice as fast with AVX512_BF16, and several times slower with neither.
    """
    if precision is not Precision.auto:
        return precision, "as configured"
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
        return (Precision.bf16, "the GPU is fast in it") if fast else (Precision.fp32, "the GPU has no bf16 units")
    unit = processor.bf16_unit()
    if unit is None:
        return Precision.fp32, f"the CPU has {processor.NO_BF16_UNIT}"
    return Precision.bf16, f"the CPU has {unit}"


def micro_batch_tokens(runtime: RuntimeConfig, device: torch.device, hidden_size: int, layers: int) -> int:
    """Return the tokens of a micro-batch: configured, or a pure function of machine facts (never timed).

    This budget is part of the exactness scope: another one groups the same sums differently and changes last bits.
    """
    if runtime.micro_batch_tokens is not None:
        return runtime.micro_batch_tokens
    if device.type == "cpu":
        # CPUs without units for bf16 train in fp32, which takes twice the memory.
        return CPU_TOKENS if processor.bf16_unit() else CPU_TOKENS // 2
    return gpu_tokens(torch.cuda.get_device_properties(device).total_memory, hidden_size, layers)


def gpu_tokens(total_bytes: int, hidden_size: int, layers: int) -> int:
    """Return the tokens of a micro-batch on a GPU with `total_bytes` of memory: a power of two, at least 8,192."""
    budget = int(total_bytes * GPU_ACTIVATIONS / (GPU_BYTES_PER_TOKEN_LAYER * hidden_size * layers))
    return max(8192, 1 << (budget.bit_length() - 1))


def scope(device: torch.device, precision: Precision, budget: int) -> dict[str, Any]:
    """Return what must be equal for two runs to agree to the bit."""
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": platform.machine(),
        "instruction_set": str(torch.backends.cpu.get_cpu_capability()),
        "bf16_unit": processor.bf16_unit(),
        "onednn_max_isa": processor.onednn_limit() or "default",
        "threads": torch.get_num_threads(),
        "precision": precision.name,
        "micro_batch_tokens": budget,
    }
