"""FlashAttention 2 over runs of rows (variable-length attention), by torch's own operators.

`torch.nn.attention.varlen` calls the same operators, but without dropout and through two operators written in Python,
whose host time is as long again as the kernels' time for a small model on a fast GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable


class FlashArguments(NamedTuple):
    """The kernel's arguments that are not tensors."""

    max_queries: int
    """Queries of the longest run, or an upper bound."""
    max_keys: int
    """Keys of the longest run, or an upper bound."""
    scale: float
    """Factor on the attention scores."""
    dropout: float
    """Rate at which attention weights are dropped."""
    window: int
    """Keys attended to on either side of the query's position; -1: all."""


class Flash(torch.autograd.Function):
    """Scaled dot-product attention of each run of queries over the run of keys with the same index.

    `apply(query, key, value, starts, key_starts, arguments)`: query (queries, heads, size), key and value (keys, heads,
    size), bf16 or fp16; starts and key_starts (runs + 1,) int32, the row each run starts at, then the number of rows.
    Returns contexts, (queries, heads, size). Dropout draws from the GPU's generator. Gradients repeat to the bit where
    torch's deterministic mode is on and not only warns.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor,
        key_starts: torch.Tensor, arguments: FlashArguments,
    ) -> torch.Tensor:  # fmt: skip
        context, logsumexp, rng_state, unused, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, starts, key_starts, arguments.max_queries, arguments.max_keys, arguments.dropout, False,
            False, scale=arguments.scale, window_size_left=arguments.window, window_size_right=arguments.window,
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, context, logsumexp, starts, key_starts, rng_state, unused)
        ctx.arguments = arguments
        result: torch.Tensor = context
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_context: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        arguments: FlashArguments = ctx.arguments
        query, key, value, context, logsumexp, starts, key_starts, rng_state, unused = ctx.saved_tensors
        gradients = torch.ops.aten._flash_attention_backward(
            grad_context, query, key, value, context, logsumexp, starts, key_starts, arguments.max_queries,
            arguments.max_keys, arguments.dropout, False, rng_state, unused,
            scale=arguments.scale, window_size_left=arguments.window, window_size_right=arguments.window,
        )  # fmt: skip
        return (*gradients, None, None, None)
