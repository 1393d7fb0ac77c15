"""FlashAttention 2 over runs of rows, by the operators that torch brings.

`torch.nn.attention.varlen` calls the same ones, but without dropout and by two operators written in Python, which take
as long on the host again as the kernels do for a small model on a fast GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable


class Runs(NamedTuple):
    """What the kernel is told besides tensors."""

    most_queries: int
    """Queries of a run at most."""
    most_keys: int
    """Keys of a run at most."""
    scale: float
    """Factor on the products."""
    dropout: float
    """Rate on the weights."""
    window: int
    """Keys seen on either side of a query's own; -1: all."""


class Flash(torch.autograd.Function):
    """Scaled dot-product attention of each run of queries over the run of keys of the same number.

    `apply(query, key, value, starts, key_starts, runs)`: query (queries, heads, size), key and value (keys, heads,
    size), bf16 or fp16; starts and key_starts (runs + 1,) int32, the row each run starts at, then the number of rows.
    Returns contexts, (queries, heads, size). Dropout draws from the GPU's generator. Gradients repeat to the bit where
    torch is told to be deterministic and not only to warn.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor,
        key_starts: torch.Tensor, runs: Runs,
    ) -> torch.Tensor:  # fmt: skip
        context, sums, random, unused, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, starts, key_starts, runs.most_queries, runs.most_keys, runs.dropout, False, False,
            scale=runs.scale, window_size_left=runs.window, window_size_right=runs.window,
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, context, sums, starts, key_starts, random, unused)
        ctx.runs = runs
        result: torch.Tensor = context
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        runs: Runs = ctx.runs
        query, key, value, context, sums, starts, key_starts, random, unused = ctx.saved_tensors
        found = torch.ops.aten._flash_attention_backward(
            gradient, query, key, value, context, sums, starts, key_starts, runs.most_queries, runs.most_keys,
            runs.dropout, False, random, unused,
            scale=runs.scale, window_size_left=runs.window, window_size_right=runs.window,
        )  # fmt: skip
        return (*found, None, None, None)
