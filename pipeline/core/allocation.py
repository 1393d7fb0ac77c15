"""Settings that keep freed memory for later tensors: glibc's on a CPU, torch's on a GPU."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt, as in its malloc.h."""

KEPT_BYTES = 2**29
"""Freed memory that a process keeps for its next tensors, see `reuse_memory`."""


def let_segments_grow() -> None:
    """Let torch's memory segments on a GPU grow: micro-batches of ever new sizes would fragment its memory.

    Call this before the first tensor on a GPU. Nothing is set under WSL, whose drivers fail at it (pytorch issue
    192330), or if the environment configures the allocator.
    """
    named = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ)
    if not named and "microsoft" not in platform.release().lower():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def reuse_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system: a page costs more to get than to fill.

    Every micro-batch allocates and frees each layer's activations; without this, page faults took a fifth of a step on
    a CPU. Blocks of 32 MiB and more are still returned. Without glibc, nothing happens.
    """
    mallopt = _of_glibc("mallopt")
    for name, value in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, 2**26)):
        mallopt(name, value)


def release_memory() -> None:
    """Return the memory that `reuse_memory` keeps to the system, between jobs whose tensors differ."""
    _of_glibc("malloc_trim")(0)


def _of_glibc(function: str) -> Callable[..., object]:
    """Return a function of glibc's allocator, or one that does nothing where there is no glibc."""
    try:
        found: Callable[..., object] = getattr(ctypes.CDLL(None), function)
    except (AttributeError, OSError, TypeError):
        return lambda *_: None
    return found
