"""BERT's last attention on a CPU: only each pair's first token asks, and no token gets a key or a value.

A head's product of a query q with a key K x + b is (transposed K q) x + q b, whose second part is one number for all
tokens: softmax does not see it. Its context, values V x + c summed with weights w, is V (sum of w x) + c (sum of w). So
both matrices multiply a row a pair instead of a row a token, which for a BERT of two layers is a seventh of all
products. What is left is little, and stays in the weights' own type. The keys' bias takes no part; its gradient,
nothing but rounding where the sums are taken otherwise, is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from pipeline.engine.block_attention import Block
from pipeline.engine.block_linear import FirstProducts
from pipeline.engine.dropout import Dropout, drop_, scale


@dataclass(slots=True)
class Kept:
    """What the attention leaves for its gradient."""

    x: torch.Tensor
    query: torch.Tensor
    """(heads, queries, size), scaled."""
    asked: torch.Tensor
    """(queries, heads, width): the keys' matrix times each query."""
    weights: list[torch.Tensor]
    """Each block's, (pairs, heads, block's width), before dropout."""
    masks: list[torch.Tensor | None]
    summed: torch.Tensor
    """(queries, heads, width): sums of weighted rows."""
    totals: torch.Tensor
    """(queries, heads): sums of weights."""


@dataclass(slots=True)
class Gradients:
    """Of `attend`'s query and x and of the parameters behind its products, shaped as these; the keys' bias has none."""

    query: torch.Tensor
    x: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    value_bias: torch.Tensor


def attend(
    query: torch.Tensor, x: torch.Tensor, products: FirstProducts, blocks: list[Block], *,
    dropout: Dropout | None, rate: float,
) -> tuple[torch.Tensor, Kept]:  # fmt: skip
    """Scaled dot-product attention of each pair's first token over its pair.

    Args:
        query: (queries, width), a query a pair and padding behind them.
        x: (tokens, width): the layer's input; of one type with query and products.
        products: the layer's.
        blocks: where the pairs stand.
        dropout: masks for the weights, None outside training.
        rate: share of the weights that is dropped.

    Returns:
        Context (queries, width), and what `gradients` needs.
    """
    by_head = products.split(query * products.scaling)
    asked = _by_query(torch.bmm(by_head, products.key))
    summed, totals = torch.zeros_like(asked), asked.new_ones(asked.shape[:2])
    kept, masks = [], []
    for block in blocks:
        rows = _rows(x, block)
        found = torch.bmm(asked[block.numbers], rows.transpose(1, 2))
        if block.hidden is not None:
            found += block.hidden[:, 0]
        weights = torch.softmax(found, -1)
        seen, mask = weights, None
        if dropout is not None and rate > 0.0:
            mask = dropout.mask(tuple(weights.shape), rate)
            seen = _dropped(weights, mask, rate)
            totals[block.numbers] = seen.sum(-1)
        torch.bmm(seen, rows, out=summed[block.numbers])
        kept.append(weights)
        masks.append(mask)
    return _context(summed, totals, products), Kept(x, by_head, asked, kept, masks, summed, totals)


def attend_frozen(query: torch.Tensor, x: torch.Tensor, products: FirstProducts, blocks: list[Block]) -> torch.Tensor:
    """`attend` without a gradient or dropout, by torch's fused attention."""
    asked = _by_query(torch.bmm(products.split(query), products.key))
    summed = torch.zeros_like(asked)
    for block in blocks:
        rows, mask = _rows(x, block)[:, None], None if block.hidden is None else block.hidden.to(x.dtype)
        # Heads stand where a text's tokens do: all of them ask the same rows.
        found = F.scaled_dot_product_attention(
            asked[block.numbers][:, None], rows, rows, attn_mask=mask, scale=products.scaling
        )
        summed[block.numbers] = found[:, 0]
    return _context(summed, None, products)


def gradients(
    gradient: torch.Tensor, kept: Kept, products: FirstProducts, blocks: list[Block], *, rate: float
) -> Gradients:
    """Gradients of `attend` from its context's, (queries, width)."""
    told = products.split(gradient)
    to_summed = _by_query(torch.bmm(told, products.value))
    to_totals = torch.bmm(told, products.value_bias[:, :, None])[:, :, 0].t()  # what dropout leaves of them varies
    to_asked, to_x = torch.zeros_like(to_summed), torch.empty_like(kept.x)
    to_x[blocks[-1].rows.stop :] = 0.0
    for block, weights, mask in zip(blocks, kept.weights, kept.masks, strict=True):
        rows, own = _rows(kept.x, block), to_summed[block.numbers]
        to_weights, seen = torch.bmm(own, rows.transpose(1, 2)), weights
        if mask is not None:
            to_weights = _dropped(to_weights.add_(to_totals[block.numbers][:, :, None]), mask, rate)
            seen = _dropped(weights, mask, rate)
        to_found = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        torch.bmm(to_found, rows, out=to_asked[block.numbers])
        # A row is read twice, once for its weight and once as what is weighted: one product for both.
        left, right = torch.cat([seen, to_found], 1), torch.cat([own, kept.asked[block.numbers]], 1)
        torch.bmm(left.transpose(1, 2), right, out=_rows(to_x, block))
    asked = to_asked.transpose(0, 1)
    to_query = torch.bmm(asked, products.key.transpose(1, 2)).transpose(0, 1).reshape(gradient.shape)
    return Gradients(
        query=to_query.mul_(products.scaling),
        x=to_x,
        key=torch.bmm(kept.query.transpose(1, 2), asked).flatten(0, 1),
        value=torch.bmm(told.transpose(1, 2), kept.summed.transpose(0, 1)).flatten(0, 1),
        value_bias=(told * kept.totals.t()[:, :, None]).sum(1).flatten(),
    )


def _rows(x: torch.Tensor, block: Block) -> torch.Tensor:
    return x[block.rows].view(block.pairs, block.width, -1)


def _by_query(by_head: torch.Tensor) -> torch.Tensor:
    return by_head.transpose(0, 1).contiguous()


def _dropped(values: torch.Tensor, mask: torch.Tensor, rate: float) -> torch.Tensor:
    return drop_(torch.mul(values, scale(rate)), mask)


def _context(summed: torch.Tensor, totals: torch.Tensor | None, products: FirstProducts) -> torch.Tensor:
    """Values of summed rows, (queries, width); `totals` None: every query's weights sum to one."""
    values, bias = torch.bmm(summed.transpose(0, 1), products.value.transpose(1, 2)), products.value_bias[:, None]
    values += bias if totals is None else bias * totals.t()[:, :, None]
    return values.transpose(0, 1).reshape(len(summed), -1)
