"""A BERT cross-encoder over a packed batch: one row per token, and in the last layer one row per pair.

BERT pools each pair's first token, so only that token's row is needed after the last attention. The last layer computes
queries, output and feed-forward for that token only, which saves a two-layer model two fifths of the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.networks.packed_attention import Layout, attend
from pipeline.networks.packed_rows import Rows


def supports(config: Any) -> bool:
    """Return whether `logits` can compute a BertForSequenceClassification with this configuration."""
    absolute = getattr(config, "position_embedding_type", "absolute") == "absolute"
    return absolute and not getattr(config, "is_decoder", False)


def logits(model: Any, rows: Rows) -> torch.Tensor:
    """Return the logits, (pairs, labels), of a BertForSequenceClassification."""
    bert, layout = model.bert, rows.layout
    x = _embed(bert.embeddings, rows)
    layers = bert.encoder.layer
    for layer in layers[:-1]:
        x = _layer(layer, x, x, layout, first_only=False)
    x = _layer(layers[-1], x, x[layout.first], layout, first_only=True)
    pooled = bert.pooler.activation(bert.pooler.dense(x))
    result: torch.Tensor = model.classifier(model.dropout(pooled))
    return result


def _embed(embeddings: Any, rows: Rows) -> torch.Tensor:
    x = embeddings.word_embeddings(rows.ids)
    x = x + embeddings.token_type_embeddings(rows.token_type_ids)
    x = x + embeddings.position_embeddings(rows.layout.position)
    result: torch.Tensor = embeddings.dropout(embeddings.LayerNorm(x))
    return result


def _layer(layer: Any, x: torch.Tensor, queries: torch.Tensor, layout: Layout, *, first_only: bool) -> torch.Tensor:
    """Compute one encoder layer for the rows of x that are `queries`: every token, or each pair's first token."""
    attention = layer.attention.self
    shape = (-1, attention.num_attention_heads, attention.attention_head_size)
    if first_only:
        query, (key, value) = attention.query(queries), _joined(x, attention.key, attention.value)
    else:
        query, key, value = _joined(x, attention.query, attention.key, attention.value)
    context = attend(
        query.view(shape), key.view(shape), value.view(shape), layout,
        scale=attention.scaling, dropout=attention.dropout.p if layer.training else 0.0, first_only=first_only,
    )  # fmt: skip
    attended = layer.attention.output(context, queries)
    result: torch.Tensor = layer.output(layer.intermediate(attended), attended)
    return result


def _joined(x: torch.Tensor, *layers: nn.Linear) -> tuple[torch.Tensor, ...]:
    """Apply linear layers of the same width to the same rows in one matmul, so that autocast casts the rows once."""
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return F.linear(x, weight, bias).chunk(len(layers), dim=-1)
