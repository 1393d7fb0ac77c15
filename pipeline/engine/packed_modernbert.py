"""A ModernBERT cross-encoder over a packed batch: positions restart in each pair, local layers see a window of it.

Pools as the configuration says: by each pair's first token (`cls`) or by the mean of its tokens (`mean`, the published
models' choice; the class's default is the other).
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.engine.packed_attention import FULL, Layout, attend

GLOBAL, LOCAL = "full_attention", "sliding_attention"


def supports(config: Any) -> bool:
    """Whether `logits` computes a ModernBertForSequenceClassification of this configuration."""
    kinds = set(config.layer_types)
    # Other rotary embeddings depend on the longest pair of the batch.
    plain = all(config.rope_parameters[kind]["rope_type"] == "default" for kind in kinds & {GLOBAL, LOCAL})
    return kinds <= {GLOBAL, LOCAL} and plain and config.classifier_pooling in ("cls", "mean")


def logits(model: Any, batch: dict[str, torch.Tensor], layout: Layout) -> torch.Tensor:
    """Logits (pairs, labels) of a ModernBertForSequenceClassification."""
    encoder, by_first = model.model, model.config.classifier_pooling == "cls"
    x = encoder.embeddings(input_ids=batch["input_ids"])
    turns = {kind: encoder.rotary_emb(x, batch["position_ids"], kind) for kind in set(model.config.layer_types)}
    for number, layer in enumerate(encoder.layers, start=1):
        # As in BERT, all that follows the last attention needs the first tokens alone; every published model ends with
        # a global layer.
        alone = by_first and number == len(encoder.layers) and layer.attention_type == GLOBAL
        x = _layer(layer, x, layout, turns[layer.attention_type], first_only=alone)
    if by_first and len(x) != len(layout.slots):
        x = x[layout.first]
    x = encoder.final_norm(x)
    pooled = x if by_first else _mean(x, layout)
    result: torch.Tensor = model.classifier(model.drop(model.head(pooled)))
    return result


def _layer(
    layer: Any, x: torch.Tensor, layout: Layout, turn: tuple[torch.Tensor, torch.Tensor], *, first_only: bool
) -> torch.Tensor:
    """One encoder layer; with `first_only` its rows are each pair's first token."""
    attention = layer.attn
    size = attention.head_dim
    packed = attention.Wqkv(layer.attn_norm(x)).view(len(x), 3, -1, size)
    query, key = _turned(packed[:, :2], *turn).unbind(1)
    if first_only:
        query, x = query[layout.first], x[layout.first]
    context = attend(
        query, key, packed[:, 2], layout, scale=size**-0.5, first_only=first_only,
        dropout=attention.attention_dropout if layer.training else 0.0,
        window=layer.config.sliding_window if layer.attention_type == LOCAL else FULL,
    )  # fmt: skip
    x = x + attention.out_drop(attention.Wo(context))
    result: torch.Tensor = x + layer.mlp(layer.mlp_norm(x))
    return result


def _turned(rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (tokens, 2, heads, size), in fp32 as transformers computes it."""
    half = rows.shape[-1] // 2
    across = torch.cat((-rows[..., half:], rows[..., :half]), dim=-1)
    return (rows.float() * cos[:, None, None] + across.float() * sin[:, None, None]).to(rows.dtype)


def _mean(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Mean of each pair's rows, (pairs, width): sums of the rows by pair, which repeat to the bit also on a GPU."""
    return layout.by_pair(x).sum(dim=1) / layout.present.sum(dim=1, keepdim=True)
