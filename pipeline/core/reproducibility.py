"""Seeds and determinism, and what differs between two records of a machine."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and ask torch for deterministic kernels where it has them."""
    fix_cublas_workspace()  # for a trainer whose device was not resolved here
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else every empty tensor is filled with NaN first, a pass over memory that no result of ours depends on.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def fix_cublas_workspace() -> None:
    """What cuBLAS needs to be repeatable, before its first call (its own documentation)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


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


def differences(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """What differs between two scopes (or other records), as `name before → now, …`; empty where either is unknown."""
    if before is None or now is None:
        return ""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)} → {now.get(name)}" for name in names)
