"""Seeds, determinism, and differences between two records of a machine."""

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
    fix_cublas_workspace()  # for a trainer whose device was resolved elsewhere
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Otherwise torch fills every empty tensor with NaN, a pass over memory that no result depends on.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def fix_cublas_workspace() -> None:
    """Set the workspace with which cuBLAS is repeatable (by its documentation). Call this before its first use."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def repeatable(strict: bool) -> Iterator[None]:
    """Run the block with deterministic kernels; with `strict`, torch refuses an operator that has none.

    Without `strict` torch only warns, and attention's gradient on a GPU keeps its fast kernel, which sums in any order.

    Raises:
        RuntimeError: from within the block, naming an operator without a deterministic kernel.
    """
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


def rng_state() -> dict[str, torch.Tensor]:
    """Return the state of every generator that training uses, as tensors for `torch.load(weights_only=True)`."""
    state = {"torch": torch.get_rng_state()}
    if _gpu_in_use():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _gpu_in_use() -> bool:
    """Return whether this process has initialised a GPU: a run on the CPU leaves the machine's GPU alone."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def set_rng_state(state: dict[str, torch.Tensor]) -> None:
    """Restore the states that `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and _gpu_in_use():
        torch.cuda.set_rng_state(state["cuda"])


def differences(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Return how two scopes (or other records) differ, as `name before → now, …`; empty if either is unknown."""
    if before is None or now is None:
        return ""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)} → {now.get(name)}" for name in names)
