"""A BERT cross-encoder without padding: one row a token, and in the last layer one row a pair.

Linear layers, norms and activations see real tokens only; attention alone is laid out by pair. What follows the last
attention depends on each pair's first token alone (BERT pools by it), so the last layer computes queries, output and
feed-forward for that token only: for a two-layer model two fifths of the work. The weights are the model's own and the
result is its logits to rounding (tests/test_packed.py); the saved folder knows nothing of this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def supports(model: nn.Module) -> bool:
    """Whether `logits` computes this model: a transformers BERT with its own pooler and absolute positions."""
    config: Any = getattr(model, "config", None)
    return (
        type(model).__name__ == "BertForSequenceClassification"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not getattr(config, "is_decoder", False)
    )


def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits (pairs, 1) of a packed batch.

    Args:
        model: a model `supports` accepts, in training or evaluation mode.
        batch: `input_ids`, `token_type_ids`, `position_ids` (tokens,) int64, pairs one after another; `slots`
            (pairs, longest) int64: the row of each pair's tokens, 0 where there is none; `present` (pairs, longest)
            bool: where there is one.
    """
    bert, slots = model.bert, batch["slots"]
    # (pairs, 1, 1, longest): every query of a pair sees the pair's tokens.
    mask = batch["present"][:, None, None, :]
    places = batch["present"].flatten().nonzero().squeeze(1)
    x = _embed(bert.embeddings, batch)
    layers = bert.encoder.layer
    for layer in layers[:-1]:
        x = _layer(layer, x, x, slots, mask, places)
    first = x[slots[:, 0]]
    x = _layer(layers[-1], x, first, slots, mask, None)
    pooled = bert.pooler.activation(bert.pooler.dense(x))
    result: torch.Tensor = model.classifier(model.dropout(pooled))
    return result


def _embed(embeddings: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    x = embeddings.word_embeddings(batch["input_ids"])
    x = x + embeddings.token_type_embeddings(batch["token_type_ids"])
    x = x + embeddings.position_embeddings(batch["position_ids"])
    result: torch.Tensor = embeddings.dropout(embeddings.LayerNorm(x))
    return result


def _layer(
    layer: Any, x: torch.Tensor, asking: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor,
    places: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """One encoder layer for the rows `asking`: every token (`places` tells where), or each pair's first (None)."""
    attention = layer.attention.self
    heads, size = attention.num_attention_heads, attention.attention_head_size
    pairs, longest = slots.shape

    def by_pair(rows: torch.Tensor) -> torch.Tensor:
        return rows[slots.flatten()].view(pairs, longest, heads, size).transpose(1, 2)

    query = attention.query(asking)
    query = query.view(pairs, 1, heads, size).transpose(1, 2) if places is None else by_pair(query)
    context = F.scaled_dot_product_attention(
        query, by_pair(attention.key(x)), by_pair(attention.value(x)), attn_mask=mask,
        dropout_p=attention.dropout.p if layer.training else 0.0, scale=attention.scaling,
    )  # fmt: skip
    rows = context.transpose(1, 2).reshape(-1, heads * size)
    if places is not None:
        rows = rows[places]
    attended = layer.attention.output(rows, asking)
    result: torch.Tensor = layer.output(layer.intermediate(attended), attended)
    return result
