"""How memory is kept between tensors: glibc's on a CPU, torch's on a GPU."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt, by its malloc.h."""

KEPT_BYTES = 2**29
"""Freed memory that a process keeps for its next tensors, see `reuse_memory`."""


def let_segments_grow() -> None:
    """To be asked before a GPU's first tensor: micro-batches of ever new sizes would leave its memory in pieces.

    Not under WSL, whose drivers fail at it (pytorch issue 192330).
    """
    named = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ)
    if not named and "microsoft" not in platform.release().lower():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


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
