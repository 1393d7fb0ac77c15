"""Attention on a CPU over blocks of pairs of similar length; each block is a view of the rows, so nothing is gathered.

The gradient is hand-written: torch's fused attention takes a third of a bf16 training step on a CPU. Knows no models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.networks.dropout import Dropout, drop_, scale


@dataclass(slots=True)
class Block:
    """A block of pairs in `pairs` times `width` rows from `row` on; `pair` is the number of its first pair."""

    row: int
    pair: int
    pairs: int
    width: int
    attention_mask: torch.Tensor | None
    """Additive mask of the attention scores, (pairs, 1, 1, width) fp32: 0 for a token, minus infinity for padding.
    None: no pair is padded."""

    @property
    def rows(self) -> slice:
        """The rows of the block's tokens, padding included."""
        return slice(self.row, self.row + self.pairs * self.width)

    @property
    def numbers(self) -> slice:
        """The numbers of the block's pairs in the batch."""
        return slice(self.pair, self.pair + self.pairs)


@dataclass(slots=True)
class Kept:
    """What a block's attention keeps for its gradient, each (pairs * heads, …, …) except `key_value`."""

    query: torch.Tensor
    """Already multiplied by the scale of the scores."""
    key_value: torch.Tensor
    """(2, pairs * heads, width, size), keys before values."""
    weights: torch.Tensor
    """Before dropout."""
    dropout_mask: torch.Tensor | None


def blocks_of(batch: dict[str, torch.Tensor]) -> list[Block]:
    """Return the blocks of a batch made by `collation.blocks`."""
    blocks, row, pair, lengths = [], 0, 0, batch["lengths"]
    for pairs, width in batch["shapes"].tolist():
        own = lengths[pair : pair + pairs]
        attention_mask = None
        if int(own.min()) < width:
            behind = torch.arange(width) >= own[:, None]
            attention_mask = torch.zeros(pairs, width).masked_fill_(behind, float("-inf"))[:, None, None]
        blocks.append(Block(row, pair, pairs, width, attention_mask))
        row, pair = row + pairs * width, pair + pairs
    return blocks


def attend(
    query: torch.Tensor, key_value: torch.Tensor, blocks: list[Block], *, heads: int, dropout: Dropout | None,
    rate: float,
) -> tuple[torch.Tensor, list[Kept]]:  # fmt: skip
    """Compute scaled dot-product attention of each token over its own pair.

    Args:
        query: (tokens, heads * size); rows after the last block are padding.
        key_value: (tokens, 2 * heads * size), keys before values.
        blocks: the pairs' layout.
        heads: attention heads.
        dropout: draws masks for the weights; None outside training.
        rate: share of the weights that are dropped.

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
        scores = torch.bmm(q, kv[0].transpose(1, 2))
        if block.attention_mask is not None:
            scores.view(block.pairs, heads, block.width, block.width).add_(block.attention_mask)
        weights = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32))
        weights = weights.to(query.dtype)
        dropout_mask, dropped = None, weights
        if dropout is not None and rate > 0.0:
            dropout_mask = dropout.mask(tuple(weights.shape), rate)
            dropped = drop_(weights.clone(), dropout_mask)
        output = torch.bmm(dropped, kv[1])
        if dropout_mask is not None:
            output.mul_(scale(rate))
        rows = context[block.rows].view(block.pairs, block.width, heads, size)
        rows.copy_(output.view(block.pairs, heads, block.width, size).transpose(1, 2))
        kept.append(Kept(q, kv, weights, dropout_mask))
    return context, kept


def gradients(
    grad_context: torch.Tensor, kept: list[Kept], blocks: list[Block], *, heads: int, rate: float,
    grad_query: torch.Tensor, grad_key_value: torch.Tensor,
) -> None:  # fmt: skip
    """Write the gradients of `attend`'s query and key_value to `grad_query` and `grad_key_value`, in their shapes."""
    size = grad_context.shape[1] // heads
    grad_query[blocks[-1].rows.stop :] = 0.0
    grad_key_value[blocks[-1].rows.stop :] = 0.0
    for block, saved in zip(blocks, kept, strict=True):
        batch = block.pairs * heads
        grad = grad_context[block.rows].view(block.pairs, block.width, heads, size).transpose(1, 2)
        grad = grad.reshape(batch, block.width, size)
        dropped = saved.weights
        if saved.dropout_mask is not None:
            grad = torch.mul(grad, scale(rate))
            dropped = drop_(dropped.clone(), saved.dropout_mask)
        grad_kv = torch.empty_like(saved.key_value)
        torch.bmm(dropped.transpose(1, 2), grad, out=grad_kv[1])
        grad_weights = torch.bmm(grad, saved.key_value[1].transpose(1, 2))
        if saved.dropout_mask is not None:
            drop_(grad_weights, saved.dropout_mask)
        grad_scores = torch._softmax_backward_data(grad_weights, saved.weights, -1, grad_weights.dtype)
        torch.bmm(grad_scores.transpose(1, 2), saved.query, out=grad_kv[0])
        grad_q = torch.bmm(grad_scores, saved.key_value[0]).mul_(size**-0.5)
        rows = grad_query[block.rows].view(block.pairs, block.width, heads, size)
        rows.copy_(grad_q.view(block.pairs, heads, block.width, size).transpose(1, 2))
        rows = grad_key_value[block.rows].view(block.pairs, block.width, 2, heads, size)
        rows.copy_(grad_kv.view(2, block.pairs, heads, block.width, size).permute(1, 3, 0, 2, 4))
