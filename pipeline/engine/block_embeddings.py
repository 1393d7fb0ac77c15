"""BERT's embeddings on a CPU, their gradient written out: rows of the word table that were not seen are not touched.

A dense gradient of the table, made, added and cleared anew for every micro-batch, costs more than a layer.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from pipeline.engine.dropout import Dropout, drop_, scale


def embed(embeddings: Any, batch: dict[str, torch.Tensor], dropout: Dropout | None) -> torch.Tensor:
    """Words, positions and token types of a BertEmbeddings, their sum normalised, (rows, width).

    The backward pass adds the word table's gradient to its `.grad` by itself, in a buffer kept between steps: no other
    code may add to that `.grad`, and hooks on the table's gradient (as of a distributed wrapper) do not run.

    Args:
        embeddings: the module.
        batch: `input_ids`, `position_ids`, `token_type_ids` (rows,).
        dropout: masks for the result, None outside training.
    """
    found: torch.Tensor = _Embeddings.apply(  # type: ignore[no-untyped-call]
        embeddings.word_embeddings.weight, embeddings, batch, dropout,
        embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight,
        embeddings.LayerNorm.weight, embeddings.LayerNorm.bias,
    )  # fmt: skip
    return found


class _Embeddings(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, words: torch.Tensor, embeddings: Any, batch: dict[str, torch.Tensor], dropout: Dropout | None,
        positions: torch.Tensor, kinds: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        total = F.embedding(batch["input_ids"], words)
        total += F.embedding(batch["position_ids"], positions)
        total += F.embedding(batch["token_type_ids"], kinds)
        norm, rate, mask = embeddings.LayerNorm, embeddings.dropout.p, None
        x, mean, inverse = torch.native_layer_norm(total, norm.normalized_shape, weight, bias, norm.eps)
        if dropout is not None and rate > 0.0:
            mask = dropout.mask(tuple(x.shape), rate)
            drop_(x, mask).mul_(scale(rate))
        ctx.kept = (embeddings, batch, total, mean, inverse, mask)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        embeddings, batch, total, mean, inverse, mask = ctx.kept
        ctx.kept = None
        (gradient,) = gradients
        if mask is not None:
            gradient = drop_(torch.mul(gradient, scale(embeddings.dropout.p)), mask)
        norm = embeddings.LayerNorm
        gradient, to_weight, to_bias = torch.ops.aten.native_layer_norm_backward(
            gradient, total, norm.normalized_shape, mean, inverse, norm.weight, norm.bias, [True, True, True]
        )
        _add_rows(embeddings.word_embeddings, batch["input_ids"], gradient)
        small = [
            _by_row(gradient, batch[ids], len(table.weight))
            for ids, table in (
                ("position_ids", embeddings.position_embeddings), ("token_type_ids", embeddings.token_type_embeddings)
            )
        ]  # fmt: skip
        return None, None, None, None, *small, to_weight, to_bias


def _by_row(gradient: torch.Tensor, ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Sums of the gradient's rows by their id, (rows, width)."""
    return torch.ops.aten.embedding_dense_backward(gradient, ids, rows, -1, False)  # type: ignore[no-any-return]


@dataclass(slots=True)
class _Table:
    """A word table's gradient, kept between steps, and the rows that are not zero in it."""

    gradient: torch.Tensor
    touched: list[torch.Tensor] = field(default_factory=list)


_TABLES: weakref.WeakKeyDictionary[torch.nn.Embedding, _Table] = weakref.WeakKeyDictionary()


def _add_rows(words: torch.nn.Embedding, ids: torch.Tensor, gradient: torch.Tensor) -> None:
    """Add rows' gradients to the table's; where it has none yet, the last step's is cleared row by row."""
    if not words.weight.requires_grad:
        return
    seen, where = torch.unique(ids, return_inverse=True)
    rows = _by_row(gradient, where, len(seen))
    if words.padding_idx is not None:
        rows[seen == words.padding_idx] = 0.0
    table = _TABLES.get(words)
    if table is None or table.gradient.dtype != words.weight.dtype or table.gradient.shape != words.weight.shape:
        table = _TABLES[words] = _Table(torch.zeros_like(words.weight))
    if words.weight.grad is None:
        for touched in table.touched:
            table.gradient[touched] = 0.0
        table.touched = []
        words.weight.grad = table.gradient
    if words.weight.grad is table.gradient:
        table.touched.append(seen)
    words.weight.grad.index_add_(0, seen, rows)
