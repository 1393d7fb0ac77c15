"""Attention within the pairs of a packed batch: where each pair's tokens lie, and two attention kernels.

Knows nothing of models: rows of queries, keys and values go in, rows of contexts come out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.networks.flash import Flash, FlashArguments

FULL = -1
"""The `window` that covers the whole pair."""


@dataclass
class Layout:
    """Where the pairs of a packed batch lie; every tensor is on the batch's device.

    No value is read back from the device: sizes that kernels need as numbers are Python integers.
    """

    starts: torch.Tensor
    """(pairs + 1,) int32: the row at which each pair starts, then the number of rows."""
    pair: torch.Tensor
    """(tokens,) int64: each row's pair."""
    position: torch.Tensor
    """(tokens,) int64: each row's position in its pair."""
    longest: int
    """Tokens of the longest pair."""
    _masks: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.starts) - 1

    @cached_property
    def first(self) -> torch.Tensor:
        """Row of each pair's first token, (pairs,) int64."""
        return self.starts[:-1].long()

    @cached_property
    def present(self) -> torch.Tensor:
        """(pairs, longest) bool: whether the pair has a token at this position."""
        lengths = self.starts[1:] - self.starts[:-1]
        return torch.arange(self.longest, device=self.starts.device) < lengths[:, None]

    @cached_property
    def slots(self) -> torch.Tensor:
        """(pairs, longest) int64: the row of the pair's token at this position, 0 where the pair has none."""
        rows = self.first[:, None] + torch.arange(self.longest, device=self.starts.device)
        return rows.masked_fill_(~self.present, 0)

    @cached_property
    def places(self) -> torch.Tensor:
        """(tokens,) int64: each row's index into the flattened `slots`."""
        return self.pair * self.longest + self.position

    def by_pair(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows (tokens, …) as (pairs, longest, …), with zeros where a pair has no token."""
        spread: torch.Tensor = _Spread.apply(rows, self)  # type: ignore[no-untyped-call]
        return spread.view(self.pairs, self.longest, *rows.shape[1:])

    def by_token(self, spread: torch.Tensor) -> torch.Tensor:
        """Return the rows (tokens, …) of (pairs x longest, …) at which a pair has a token."""
        rows: torch.Tensor = _Gathered.apply(spread, self)  # type: ignore[no-untyped-call]
        return rows

    def mask(self, window: int) -> torch.Tensor:
        """Return which positions of its pair each position attends to, (pairs, 1, 1 or longest, longest) bool."""
        longest = self.longest
        if window == FULL or window >= longest - 1:
            return self.present[:, None, None, :]
        if window not in self._masks:
            place = torch.arange(longest, device=self.starts.device)
            near = (place[:, None] - place[None, :]).abs() <= window
            # A position without a token attends to everything: over nothing, its context would be NaN, though dropped.
            self._masks[window] = ((near & self.present[:, None, :]) | ~self.present[:, :, None])[:, None]
        return self._masks[window]


class _Spread(torch.autograd.Function):
    """Copies rows (tokens, …) to their places in (pairs x longest, …), with zeros elsewhere.

    `_Spread` and `_Gathered` are each other's gradient. The gradient of torch's own indexing must add up rows whose
    indices may repeat, so in deterministic mode a GPU sorts the indices first. Here no index repeats.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        return _spread(rows, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad_output.index_select(0, ctx.layout.places), None


class _Gathered(torch.autograd.Function):
    """Copies rows (tokens, …) from their places in (pairs x longest, …)."""

    @staticmethod
    def forward(ctx: Any, spread: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        return spread.index_select(0, layout.places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _spread(grad_output, ctx.layout), None


def _spread(rows: torch.Tensor, layout: Layout) -> torch.Tensor:
    empty = ~layout.present.flatten()
    return rows.index_select(0, layout.slots.flatten()).masked_fill_(empty.view(-1, *(1,) * (rows.ndim - 1)), 0)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, *,
    scale: float, dropout: float, window: int = FULL, first_only: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Compute scaled dot-product attention of tokens over their own pair.

    Args:
        query: (tokens, heads, size), or (pairs, heads, size) with `first_only`.
        key: (tokens, heads, size).
        value: as `key`.
        layout: where the batch's pairs lie.
        scale: factor on the attention scores.
        dropout: rate at which attention weights are dropped, 0 outside training.
        window: how many tokens on either side of itself a token attends to; `FULL`: the whole pair.
        first_only: whether only each pair's first token is a query; it attends to the whole pair.

    Returns:
        Contexts (queries, heads * size).
    """
    # Where a pair has fewer queries than keys, windowed kernels count positions from the pair's end.
    assert window == FULL or not first_only
    if runs_unpadded(query):
        return _unpadded(query, key, value, layout, scale, dropout, window, first_only)
    query_by_pair = query[:, None] if first_only else layout.by_pair(query)
    context = F.scaled_dot_product_attention(
        query_by_pair.transpose(1, 2), layout.by_pair(key).transpose(1, 2), layout.by_pair(value).transpose(1, 2),
        attn_mask=layout.mask(window), dropout_p=dropout, scale=scale,
    )  # fmt: skip
    rows = context.transpose(1, 2).reshape(-1, query.shape[1] * query.shape[2])
    return rows if first_only else layout.by_token(rows)


def runs_unpadded(query: torch.Tensor) -> bool:
    """Return whether FlashAttention takes these queries, (…, size): half precision on a GPU that supports it."""
    return query.is_cuda and has_unpadded(query.device, query.dtype, query.shape[-1])


def has_unpadded(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Return whether a GPU attends without padding in this dtype, with heads of `size`."""
    # The kernel reads a head in pieces of 16 bytes; its gradient for heads over 192 does not run on every GPU.
    return size % 8 == 0 and size <= 192 and dtype in (torch.bfloat16, torch.float16) and _has_kernel(device)


@cache
def _has_kernel(device: torch.device) -> bool:
    """Return whether FlashAttention 2 is available: torch must be built with it, on compute capability 8.0 or more."""
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device)[0] >= 8


def _unpadded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float, dropout: float,
    window: int, first_only: bool,
) -> torch.Tensor:  # fmt: skip
    if first_only:
        starts, longest = torch.arange(layout.pairs + 1, dtype=torch.int32, device=query.device), 1
    else:
        starts, longest = layout.starts, layout.longest
    arguments = FlashArguments(longest, layout.longest, scale, dropout, window)
    context: torch.Tensor = Flash.apply(  # type: ignore[no-untyped-call]
        query, key, value, starts, layout.starts, arguments
    )
    return context.flatten(1)
