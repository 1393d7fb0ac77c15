"""BERT's embeddings on a CPU, their gradient written out: rows of the word table that were not seen are not touched.

A dense gradient of the table, made, added and cleared anew for every micro-batch, costs more than a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from pipeline.engine.dropout import Dropout, drop_, scale


def embed(embeddings: Any, batch: dict[str, torch.Tensor], dropout: Dropout | None) -> torch.Tensor:
    """Words, positions and token types of a BertEmbeddings, their sum normalised, (rows, width).

    The gradient of the word table is a sparse tensor of the rows that were seen.

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
        trained = ctx.needs_input_grad[0]
        words = _rows_seen(embeddings.word_embeddings, batch["input_ids"], gradient) if trained else None
        small = [
            _by_row(gradient, batch[ids], len(table.weight))
            for ids, table in (
                ("position_ids", embeddings.position_embeddings), ("token_type_ids", embeddings.token_type_embeddings)
            )
        ]  # fmt: skip
        return words, None, None, None, *small, to_weight, to_bias


def _by_row(gradient: torch.Tensor, ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Sums of the gradient's rows by their id, (rows, width)."""
    return torch.ops.aten.embedding_dense_backward(gradient, ids, rows, -1, False)  # type: ignore[no-any-return]


def _rows_seen(words: torch.nn.Embedding, ids: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The table's gradient, sparse, its rows in order and each once."""
    seen, where = torch.unique(ids, return_inverse=True)
    rows = _by_row(gradient, where, len(seen))
    if words.padding_idx is not None:
        rows[seen == words.padding_idx] = 0.0
    return torch.sparse_coo_tensor(seen[None], rows, words.weight.shape, is_coalesced=True, check_invariants=False)
