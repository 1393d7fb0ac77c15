"""Attention on a CPU: pairs of like length in blocks, each a view of the rows, so that nothing is gathered.

The gradient is written out: torch's fused attention takes a third of a training step in bf16 on a CPU. Knows no models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.engine.dropout import Dropout, drop_, scale


@dataclass(slots=True)
class Block:
    """Pairs that stand in `pairs` times `width` rows from `row` on; number `pair` is the first of them."""

    row: int
    pair: int
    pairs: int
    width: int
    hidden: torch.Tensor | None
    """What is added to the products, (pairs, 1, 1, width) fp32: minus infinity behind a pair's end; None: no pads."""

    @property
    def rows(self) -> slice:
        """Its tokens."""
        return slice(self.row, self.row + self.pairs * self.width)

    @property
    def numbers(self) -> slice:
        """Its pairs."""
        return slice(self.pair, self.pair + self.pairs)


@dataclass(slots=True)
class Kept:
    """What a block's attention leaves for its gradient; each (pairs * heads, …, …)."""

    query: torch.Tensor
    """Already multiplied by the scale of the products."""
    key_value: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor | None


def blocks_of(batch: dict[str, torch.Tensor]) -> list[Block]:
    """The blocks of a batch made by `collation.blocks`."""
    found, row, pair, lengths = [], 0, 0, batch["lengths"]
    for pairs, width in batch["shapes"].tolist():
        own = lengths[pair : pair + pairs]
        hidden = None
        if int(own.min()) < width:
            behind = torch.arange(width) >= own[:, None]
            hidden = torch.zeros(pairs, width).masked_fill_(behind, float("-inf"))[:, None, None]
        found.append(Block(row, pair, pairs, width, hidden))
        row, pair = row + pairs * width, pair + pairs
    return found


def attend(
    query: torch.Tensor, key_value: torch.Tensor, blocks: list[Block], *, heads: int, dropout: Dropout | None,
    rate: float,
) -> tuple[torch.Tensor, list[Kept]]:  # fmt: skip
    """Scaled dot-product attention of tokens over their own pair.

    Args:
        query: (tokens, heads * size); rows behind the blocks' are padding.
        key_value: (tokens, 2 * heads * size), keys before values.
        blocks: where the pairs stand.
        heads: attention heads.
        dropout: masks for the weights, None outside training.
        rate: share of the weights that is dropped.

    Returns:
        Context (tokens, heads * size), and what `gradients` needs.
    """
    size = query.shape[1] // heads
    context = torch.empty(query.shape, dtype=query.dtype)
    context[blocks[-1].rows.stop :] = 0.0
    kept = []
    for block in blocks:
        batch = block.pairs * heads
        q = query[block.rows].view(block.pairs, block.width, heads, size).transpose(1, 2)
        q = torch.mul(q, size**-0.5).reshape(batch, block.width, size)
        kv = key_value[block.rows].view(block.pairs, block.width, 2, heads, size).permute(2, 0, 3, 1, 4)
        kv = kv.reshape(2, batch, block.width, size)
        products = torch.bmm(q, kv[0].transpose(1, 2))
        if block.hidden is not None:
            products.view(block.pairs, heads, block.width, block.width).add_(block.hidden)
        weights = torch.softmax(products, -1, dtype=torch.promote_types(products.dtype, torch.float32))
        weights = weights.to(query.dtype)
        mask, seen = None, weights
        if dropout is not None and rate > 0.0:
            mask = dropout.mask(tuple(weights.shape), rate)
            seen = drop_(weights.clone(), mask)
        found = torch.bmm(seen, kv[1])
        if mask is not None:
            found.mul_(scale(rate))
        rows = context[block.rows].view(block.pairs, block.width, heads, size)
        rows.copy_(found.view(block.pairs, heads, block.width, size).transpose(1, 2))
        kept.append(Kept(q, kv, weights, mask))
    return context, kept


def gradients(
    gradient: torch.Tensor, kept: list[Kept], blocks: list[Block], *, heads: int, rate: float, query: torch.Tensor,
    key_value: torch.Tensor,
) -> None:  # fmt: skip
    """Gradients of `attend`, written to `query` and `key_value`, shaped as its arguments.

    `gradient` is the context's.
    """
    size = gradient.shape[1] // heads
    query[blocks[-1].rows.stop :] = 0.0
    key_value[blocks[-1].rows.stop :] = 0.0
    for block, found in zip(blocks, kept, strict=True):
        batch = block.pairs * heads
        g = gradient[block.rows].view(block.pairs, block.width, heads, size).transpose(1, 2)
        g = g.reshape(batch, block.width, size)
        seen = found.weights
        if found.mask is not None:
            g = torch.mul(g, scale(rate))
            seen = drop_(seen.clone(), found.mask)
        to_key_value = torch.empty_like(found.key_value)
        torch.bmm(seen.transpose(1, 2), g, out=to_key_value[1])
        to_weights = torch.bmm(g, found.key_value[1].transpose(1, 2))
        if found.mask is not None:
            drop_(to_weights, found.mask)
        to_products = torch._softmax_backward_data(to_weights, found.weights, -1, to_weights.dtype)
        torch.bmm(to_products.transpose(1, 2), found.query, out=to_key_value[0])
        to_query = torch.bmm(to_products, found.key_value[0]).mul_(size**-0.5)
        rows = query[block.rows].view(block.pairs, block.width, heads, size)
        rows.copy_(to_query.view(block.pairs, heads, block.width, size).transpose(1, 2))
        rows = key_value[block.rows].view(block.pairs, block.width, 2, heads, size)
        rows.copy_(to_key_value.view(2, block.pairs, heads, block.width, size).permute(1, 3, 0, 2, 4))
