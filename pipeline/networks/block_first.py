"""BERT's last attention on a CPU: each pair's first token is the only query, and no keys or values are computed.

A head's score of a query q against a key K x + b is (transposed K q) x + q b. The second term is the same for all
tokens and does not change their softmax. The head's context, values V x + c summed with weights w, is V (sum of w x) +
c (sum of w). So both matrices multiply one row per pair instead of one row per token, which saves a seventh of all
matmuls for a two-layer BERT. The rest is little work and stays in the weights' own dtype. The keys' bias has no effect:
its gradient is zero, where attention computed the usual way gives mere rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from pipeline.networks.block_attention import Block
from pipeline.networks.block_linear import FirstTokenLinears
from pipeline.networks.dropout import Dropout, drop_, scale


@dataclass(slots=True)
class Kept:
    """What the attention keeps for its gradient."""

    x: torch.Tensor
    query: torch.Tensor
    """(heads, queries, size), scaled."""
    projected_query: torch.Tensor
    """(queries, heads, width): each query times the key matrix; its dot product with a row of x is a score."""
    weights: list[torch.Tensor]
    """Each block's attention weights, (pairs, heads, block's width), before dropout."""
    dropout_masks: list[torch.Tensor | None]
    summed: torch.Tensor
    """(queries, heads, width): sums of weighted rows."""
    totals: torch.Tensor
    """(queries, heads): sums of weights after dropout."""


@dataclass(slots=True)
class Gradients:
    """Gradients of `attend`'s query and x and of its linears' parameters, in their shapes; the keys' bias has none."""

    query: torch.Tensor
    x: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    value_bias: torch.Tensor


def attend(
    query: torch.Tensor, x: torch.Tensor, linears: FirstTokenLinears, blocks: list[Block], *,
    dropout: Dropout | None, rate: float,
) -> tuple[torch.Tensor, Kept]:  # fmt: skip
    """Compute scaled dot-product attention of each pair's first token over its pair.

    Args:
        query: (queries, width): one query per pair, then padding.
        x: (tokens, width): the layer's input, in the dtype of query and of the linears' parameters.
        linears: the layer's query, key and value layers.
        blocks: the pairs' layout.
        dropout: draws masks for the weights; None outside training.
        rate: share of the weights that are dropped.

    Returns:
        Context (queries, width), and what `gradients` needs.
    """
    query_by_head = linears.split(query * linears.scaling)
    projected_query = _by_query(torch.bmm(query_by_head, linears.key))
    summed, totals = torch.zeros_like(projected_query), projected_query.new_ones(projected_query.shape[:2])
    kept, dropout_masks = [], []
    for block in blocks:
        rows = _rows(x, block)
        scores = torch.bmm(projected_query[block.numbers], rows.transpose(1, 2))
        if block.attention_mask is not None:
            scores += block.attention_mask[:, 0]
        weights = torch.softmax(scores, -1)
        dropped, dropout_mask = weights, None
        if dropout is not None and rate > 0.0:
            dropout_mask = dropout.mask(tuple(weights.shape), rate)
            dropped = _dropped(weights, dropout_mask, rate)
            totals[block.numbers] = dropped.sum(-1)
        torch.bmm(dropped, rows, out=summed[block.numbers])
        kept.append(weights)
        dropout_masks.append(dropout_mask)
    saved = Kept(x, query_by_head, projected_query, kept, dropout_masks, summed, totals)
    return _context(summed, totals, linears), saved


def attend_frozen(
    query: torch.Tensor, x: torch.Tensor, linears: FirstTokenLinears, blocks: list[Block]
) -> torch.Tensor:
    """Compute `attend` without a gradient or dropout, by torch's fused attention."""
    projected_query = _by_query(torch.bmm(linears.split(query), linears.key))
    summed = torch.zeros_like(projected_query)
    for block in blocks:
        rows = _rows(x, block)[:, None]
        mask = None if block.attention_mask is None else block.attention_mask.to(x.dtype)
        # Heads take the place of query tokens: all of them attend to the same rows.
        output = F.scaled_dot_product_attention(
            projected_query[block.numbers][:, None], rows, rows, attn_mask=mask, scale=linears.scaling
        )
        summed[block.numbers] = output[:, 0]
    return _context(summed, None, linears)


def gradients(
    grad_context: torch.Tensor, kept: Kept, linears: FirstTokenLinears, blocks: list[Block], *, rate: float
) -> Gradients:
    """Return the gradients of `attend`, given the gradient of its context, (queries, width)."""
    grad_by_head = linears.split(grad_context)
    grad_summed = _by_query(torch.bmm(grad_by_head, linears.value))
    # Without dropout the totals are constant, and their gradient is not used.
    grad_totals = torch.bmm(grad_by_head, linears.value_bias[:, :, None])[:, :, 0].t()
    grad_projected, grad_x = torch.zeros_like(grad_summed), torch.empty_like(kept.x)
    grad_x[blocks[-1].rows.stop :] = 0.0
    for block, weights, dropout_mask in zip(blocks, kept.weights, kept.dropout_masks, strict=True):
        rows, grad_output = _rows(kept.x, block), grad_summed[block.numbers]
        grad_weights, dropped = torch.bmm(grad_output, rows.transpose(1, 2)), weights
        if dropout_mask is not None:
            grad_weights = _dropped(grad_weights.add_(grad_totals[block.numbers][:, :, None]), dropout_mask, rate)
            dropped = _dropped(weights, dropout_mask, rate)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        torch.bmm(grad_scores, rows, out=grad_projected[block.numbers])
        # A row is used twice, for its score and in the weighted sum: one matmul computes both parts of its gradient.
        projected_query = kept.projected_query[block.numbers]
        left, right = torch.cat([dropped, grad_scores], 1), torch.cat([grad_output, projected_query], 1)
        torch.bmm(left.transpose(1, 2), right, out=_rows(grad_x, block))
    grad_projected_by_head = grad_projected.transpose(0, 1)
    grad_query = torch.bmm(grad_projected_by_head, linears.key.transpose(1, 2)).transpose(0, 1)
    grad_query = grad_query.reshape(grad_context.shape)
    return Gradients(
        query=grad_query.mul_(linears.scaling),
        x=grad_x,
        key=torch.bmm(kept.query.transpose(1, 2), grad_projected_by_head).flatten(0, 1),
        value=torch.bmm(grad_by_head.transpose(1, 2), kept.summed.transpose(0, 1)).flatten(0, 1),
        value_bias=(grad_by_head * kept.totals.t()[:, :, None]).sum(1).flatten(),
    )


def _rows(x: torch.Tensor, block: Block) -> torch.Tensor:
    return x[block.rows].view(block.pairs, block.width, -1)


def _by_query(by_head: torch.Tensor) -> torch.Tensor:
    return by_head.transpose(0, 1).contiguous()


def _dropped(values: torch.Tensor, mask: torch.Tensor, rate: float) -> torch.Tensor:
    return drop_(torch.mul(values, scale(rate)), mask)


def _context(summed: torch.Tensor, totals: torch.Tensor | None, linears: FirstTokenLinears) -> torch.Tensor:
    """Return the context (queries, width) of weighted sums of rows; `totals` None: every query's weights sum to one."""
    values, bias = torch.bmm(summed.transpose(0, 1), linears.value.transpose(1, 2)), linears.value_bias[:, None]
    values += bias if totals is None else bias * totals.t()[:, :, None]
    return values.transpose(0, 1).reshape(len(summed), -1)
