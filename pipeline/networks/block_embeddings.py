"""BERT's embeddings on a CPU with a hand-written gradient, which touches only the batch's rows of the word table.

Allocating, adding and clearing a dense gradient of the table for every micro-batch costs more than an encoder layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from pipeline.networks.dropout import Dropout, drop_, scale


def embed(embeddings: Any, batch: dict[str, torch.Tensor], dropout: Dropout | None) -> torch.Tensor:
    """Return a BertEmbeddings' output (rows, width): the LayerNorm of word plus position plus token type embeddings.

    The gradient of the word table is a sparse tensor of the rows whose ids are in the batch.

    Args:
        embeddings: the module.
        batch: `input_ids`, `position_ids`, `token_type_ids` (rows,).
        dropout: draws a mask for the result; None outside training.
    """
    x: torch.Tensor = _Embeddings.apply(  # type: ignore[no-untyped-call]
        embeddings.word_embeddings.weight, embeddings, batch, dropout,
        embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight,
        embeddings.LayerNorm.weight, embeddings.LayerNorm.bias,
    )  # fmt: skip
    return x


class _Embeddings(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, words: torch.Tensor, embeddings: Any, batch: dict[str, torch.Tensor], dropout: Dropout | None,
        positions: torch.Tensor, token_types: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        total = F.embedding(batch["input_ids"], words)
        total += F.embedding(batch["position_ids"], positions)
        total += F.embedding(batch["token_type_ids"], token_types)
        norm, rate, dropout_mask = embeddings.LayerNorm, embeddings.dropout.p, None
        x, mean, rstd = torch.native_layer_norm(total, norm.normalized_shape, weight, bias, norm.eps)
        if dropout is not None and rate > 0.0:
            dropout_mask = dropout.mask(tuple(x.shape), rate)
            drop_(x, dropout_mask).mul_(scale(rate))
        ctx.kept = (embeddings, batch, total, mean, rstd, dropout_mask)
        return x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        embeddings, batch, total, mean, rstd, dropout_mask = ctx.kept
        ctx.kept = None
        (grad,) = grad_outputs
        if dropout_mask is not None:
            grad = drop_(torch.mul(grad, scale(embeddings.dropout.p)), dropout_mask)
        norm = embeddings.LayerNorm
        grad, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
            grad, total, norm.normalized_shape, mean, rstd, norm.weight, norm.bias, [True, True, True]
        )
        trained = ctx.needs_input_grad[0]
        grad_words = _sparse_gradient(embeddings.word_embeddings, batch["input_ids"], grad) if trained else None
        small_tables = [
            _sums_by_id(grad, batch[ids], len(table.weight))
            for ids, table in (
                ("position_ids", embeddings.position_embeddings), ("token_type_ids", embeddings.token_type_embeddings)
            )
        ]  # fmt: skip
        return grad_words, None, None, None, *small_tables, grad_weight, grad_bias


def _sums_by_id(grad: torch.Tensor, ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the sums of the gradient's rows that have the same id, (rows, width)."""
    return torch.ops.aten.embedding_dense_backward(grad, ids, rows, -1, False)  # type: ignore[no-any-return]


def _sparse_gradient(words: torch.nn.Embedding, ids: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Return the table's gradient as a coalesced sparse tensor: each row once, in order."""
    distinct, inverse = torch.unique(ids, return_inverse=True)
    rows = _sums_by_id(grad, inverse, len(distinct))
    if words.padding_idx is not None:
        rows[distinct == words.padding_idx] = 0.0
    return torch.sparse_coo_tensor(distinct[None], rows, words.weight.shape, is_coalesced=True, check_invariants=False)
