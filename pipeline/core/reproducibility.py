"""Seeds, determinism, and the scope within which results are equal to the bit. Knows no stage."""

from __future__ import annotations

import ctypes
import os
import platform
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pipeline.config.learning import Precision
from pipeline.config.machine import Attention, Device, RuntimeConfig
from pipeline.core.errors import ResourceError, must

CPU_TOKENS = 8192
"""Tokens of a micro-batch on a CPU that multiplies bf16: enough for full-rate products, and more is no faster."""

WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
WITHOUT_AMX = frozenset({"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2", "AVX10_2_512"})
"""oneDNN's names of instruction sets that leave those units out; a name it does not know is no limit to it."""

NO_BF16_UNIT = "neither AMX nor AVX512_BF16"
"""What a CPU has that trains in fp32."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt, by its malloc.h."""

KEPT_BYTES = 2**29
"""Freed memory that a process keeps for its next tensors, see `reuse_memory`."""

GPU_BYTES_PER_TOKEN_LAYER = 41
"""Activations kept for the backward pass, in bytes a token, layer and hidden unit: ModernBERT's by their sizes under
bf16 autocast and FlashAttention (BERT's are 36, with dropout 40)."""

GPU_ACTIVATIONS = 0.4
"""Share of a GPU's memory for them. Weights, gradients and AdamW's moments of ModernBERT-large are 7 of 24 GiB."""


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and ask torch for deterministic kernels where it has them."""
    _fix_cublas_workspace()  # for a trainer whose device was not resolved here
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else every empty tensor is filled with NaN first, a pass over memory that no result of ours depends on.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _fix_cublas_workspace() -> None:
    """What cuBLAS needs to be repeatable, before its first call (its own documentation)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _let_segments_grow() -> None:
    """To be asked before a GPU's first tensor: micro-batches of ever new sizes would leave its memory in pieces.

    Not under WSL, whose drivers fail at it (pytorch issue 192330).
    """
    named = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ)
    if not named and "microsoft" not in platform.release().lower():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


@contextmanager
def repeatable(strict: bool) -> Iterator[None]:
    """Within it, sums come in one order or, with `strict`, are refused.

    Where torch only warns, attention's gradient on a GPU stays the fast one, whose sums come in any order.

    Raises:
        RuntimeError: from within, naming an operator that has no such kernel.
    """
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


def reuse_memory() -> None:
    """Let glibc keep freed memory instead of giving it back and asking again: a page costs more to get than to fill.

    A layer's activations are made and freed each micro-batch; without this a fifth of a step on a CPU went into page
    faults. Blocks of 32 MiB and more are given back as before. Elsewhere than on glibc nothing happens.
    """
    mallopt = _of_glibc("mallopt")
    for name, value in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, 2**26)):
        mallopt(name, value)


def release_memory() -> None:
    """Give back what `reuse_memory` keeps: between one job and the next, whose tensors are others."""
    _of_glibc("malloc_trim")(0)


def _of_glibc(function: str) -> Callable[..., object]:
    """A function of its allocator; elsewhere one that does nothing."""
    try:
        found: Callable[..., object] = getattr(ctypes.CDLL(None), function)
    except (AttributeError, OSError, TypeError):
        return lambda *_: None
    return found


def rng_state() -> dict[str, torch.Tensor]:
    """States of every generator training draws from, as tensors `torch.load(weights_only=True)` reads back."""
    state = {"torch": torch.get_rng_state()}
    if _gpu_in_use():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _gpu_in_use() -> bool:
    """Whether this process has one at work; a run on the CPU leaves a GPU that is there alone."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def set_rng_state(state: dict[str, torch.Tensor]) -> None:
    """Restore what `rng_state` gave."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and _gpu_in_use():
        torch.cuda.set_rng_state(state["cuda"])


def resolve_device(runtime: RuntimeConfig) -> torch.device:
    """The device a run uses, its matrix products made repeatable.

    Raises:
        ResourceError: when a GPU is asked for and torch sees none.
    """
    if runtime.device is Device.cuda and not torch.cuda.is_available():
        raise ResourceError(
            must("runtime.device", "be a device torch can see", "cuda, and no GPU is visible",
                 f"Use runtime=cpu, or {_what_a_gpu_lacks()}.")
        )  # fmt: skip
    if runtime.device is Device.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    _fix_cublas_workspace()
    _let_segments_grow()
    return torch.device("cuda")


def _what_a_gpu_lacks() -> str:
    if torch.version.cuda:
        return f"install a driver that serves CUDA {torch.version.cuda}, which this torch is built for"
    return "install the CUDA build of torch (make setup)"


def resolve_attention(runtime: RuntimeConfig) -> Attention:
    """The attention backend: `varlen`, with no or little padding, where the model allows it (else SDPA or eager)."""
    return Attention.varlen if runtime.attention is Attention.auto else runtime.attention


def bf16_unit() -> str | None:
    """What multiplies bf16 on this CPU as far as oneDNN may use it, `AMX` or `AVX512_BF16`; None: nothing does."""
    limit = onednn_limit()
    if limit in WITHOUT_BF16:
        return None
    if torch.cpu._is_amx_tile_supported() and limit not in WITHOUT_AMX:
        return "AMX"
    return "AVX512_BF16" if torch.cpu._is_avx512_bf16_supported() else None


def onednn_limit() -> str:
    """The instruction set oneDNN was told to stay within, empty for none, read as it reads it."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()


def resolve_precision(precision: Precision, device: torch.device) -> tuple[Precision, str]:
    """`auto` as bf16 or fp32, with the reason.

    bf16 needs compute capability 8.0 on a GPU. A CPU multiplies it several times as fast as fp32 with AMX, about twice
    with AVX512_BF16, and several times slower with neither.
    """
    if precision is not Precision.auto:
        return precision, "as configured"
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
        return (Precision.bf16, "the GPU is fast in it") if fast else (Precision.fp32, "the GPU has no bf16 units")
    unit = bf16_unit()
    return (Precision.bf16, f"the CPU has {unit}") if unit else (Precision.fp32, f"the CPU has {NO_BF16_UNIT}")


def micro_batch_tokens(runtime: RuntimeConfig, device: torch.device, hidden_size: int, layers: int) -> int:
    """Tokens of a micro-batch: configured, or a pure function of machine facts (never timed).

    Part of the exactness scope: another budget groups the same sums differently and changes last bits.
    """
    if runtime.micro_batch_tokens is not None:
        return runtime.micro_batch_tokens
    if device.type == "cpu":
        # Twice as wide in fp32, which CPUs without units for bf16 train in.
        return CPU_TOKENS if bf16_unit() else CPU_TOKENS // 2
    return gpu_tokens(torch.cuda.get_device_properties(device).total_memory, hidden_size, layers)


def gpu_tokens(total_bytes: int, hidden_size: int, layers: int) -> int:
    """Tokens of a micro-batch on a GPU of that much memory: a power of two, 8,192 at least."""
    budget = int(total_bytes * GPU_ACTIVATIONS / (GPU_BYTES_PER_TOKEN_LAYER * hidden_size * layers))
    return max(8192, 1 << (budget.bit_length() - 1))


def scope(device: torch.device, precision: Precision, budget: int) -> dict[str, Any]:
    """What must be equal for two runs to agree to the bit."""
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": platform.machine(),
        "instruction_set": str(torch.backends.cpu.get_cpu_capability()),
        "bf16_unit": bf16_unit(),
        "onednn_max_isa": onednn_limit() or "default",
        "threads": torch.get_num_threads(),
        "precision": precision.name,
        "micro_batch_tokens": budget,
    }


def differences(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """What differs between two scopes (or other records), as `name before → now, …`; empty where either is unknown."""
    if before is None or now is None:
        return ""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)} → {now.get(name)}" for name in names)
