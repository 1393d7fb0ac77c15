"""A ModernBERT cross-encoder over a packed batch: positions restart in each pair, local layers see a window of it.

Pools as the configuration says: by each pair's first token (`cls`) or by the mean of its tokens (`mean`, the published
models' choice; the class's default is the other).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pipeline.engine import fused
from pipeline.engine.packed_attention import FULL, Layout, attend
from pipeline.engine.packed_rows import Rows

GLOBAL, LOCAL = "full_attention", "sliding_attention"


def supports(config: Any) -> bool:
    """Whether `logits` computes a ModernBertForSequenceClassification of this configuration."""
    kinds = set(config.layer_types)
    # Other rotary embeddings depend on the longest pair of the batch.
    plain = all(config.rope_parameters[kind]["rope_type"] == "default" for kind in kinds & {GLOBAL, LOCAL})
    return kinds <= {GLOBAL, LOCAL} and plain and config.classifier_pooling in ("cls", "mean")


def logits(model: Any, rows: Rows) -> torch.Tensor:
    """Logits (pairs, labels) of a ModernBertForSequenceClassification."""
    encoder, by_first, layout = model.model, model.config.classifier_pooling == "cls", rows.layout
    x = encoder.embeddings(input_ids=rows.ids)
    turns = {kind: encoder.rotary_emb(x, layout.position, kind) for kind in set(model.config.layer_types)}
    for number, layer in enumerate(encoder.layers, start=1):
        # As in BERT, all that follows the last attention needs the first tokens alone; every published model ends with
        # a global layer.
        alone = by_first and number == len(encoder.layers) and layer.attention_type == GLOBAL
        x = _layer(layer, x, layout, turns[layer.attention_type], first_only=alone)
    if by_first and len(x) != layout.pairs:
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
    query, key, value = _Turned.apply(packed, *turn)  # type: ignore[no-untyped-call]
    if first_only:
        query, x = query[layout.first], x[layout.first]
    context = attend(
        query, key, value, layout, scale=size**-0.5, first_only=first_only,
        dropout=attention.attention_dropout if layer.training else 0.0,
        window=layer.config.sliding_window if layer.attention_type == LOCAL else FULL,
    )  # fmt: skip
    x = x + attention.out_drop(attention.Wo(context))
    result: torch.Tensor = x + _feed_forward(layer.mlp, layer.mlp_norm(x))
    return result


def _feed_forward(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    rows = mlp.Wi(x)
    if mlp.config.hidden_activation == "gelu" and fused.runs(rows):
        bent = _Gated.apply(rows)  # type: ignore[no-untyped-call]
    else:
        inner, gate = rows.chunk(2, dim=-1)
        bent = mlp.act(inner) * gate
    result: torch.Tensor = mlp.Wo(mlp.drop(bent))
    return result


class _Gated(torch.autograd.Function):
    """GELU of each row's first half times its second, which keeps the row alone for its gradient."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        return fused.gated(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (rows,) = ctx.saved_tensors
        return fused.gated_gradient(rows, gradient.contiguous())


class _Turned(torch.autograd.Function):
    """Queries, keys and values (tokens, heads, size) of (tokens, 3, heads, size), the first two turned by position.

    One gradient for the three: autograd's own of each part is as large as the whole and mostly zeros, and passes over
    memory are most of what a layer costs besides its products.
    """

    @staticmethod
    def forward(ctx: Any, packed: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        if fused.runs(packed):
            query, key, value = packed.unbind(1)
            return fused.turned(query, key, value, cos, sin).unbind(1)
        # Values are copied: as a view they would keep queries and keys as they were before the turn.
        found = torch.empty_like(packed)
        found[:, :2], found[:, 2] = _rotated(packed[:, :2], cos, sin), packed[:, 2]
        return found.unbind(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        query, key, value = gradients
        # A turn's gradient is the turn back.
        if fused.runs(value):
            return fused.turned(query.contiguous(), key.contiguous(), value.contiguous(), cos, -sin), None, None
        found = value.new_empty(len(value), 3, *value.shape[1:])
        found[:, 0], found[:, 1] = _rotated(query, cos, -sin, back=True), _rotated(key, cos, -sin, back=True)
        found[:, 2] = value
        return found, None, None


def _rotated(rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, back: bool = False) -> torch.Tensor:
    """Rotary position embedding of (tokens, …, size) by angles (tokens, size), products and sums in fp32.

    Args:
        rows: bf16 or fp32. Of fp64, which only tests run, transformers turns rows rounded to fp32 and rounds each
            product of their gradient to it; so does this.
        cos: fp32, equal in both halves.
        sin: as `cos`.
        back: whether `rows` are a gradient.
    """
    angles = (len(rows), *(1 for _ in rows.shape[1:-1]), rows.shape[-1])
    cos, sin = cos.view(angles), sin.view(angles)
    half = rows.shape[-1] // 2
    wide = rows.dtype is torch.float64
    rows = rows.float() if wide and not back else rows
    found, low, high = rows * cos, rows[..., half:] * sin[..., :half], rows[..., :half] * sin[..., half:]
    if wide and back:
        found, low, high = found.float().double(), low.float(), high.float()
    found[..., :half].sub_(low)
    found[..., half:].add_(high)
    return found


def _mean(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Mean of each pair's rows, (pairs, width): sums of the rows by pair, which repeat to the bit also on a GPU."""
    return layout.by_pair(x).sum(dim=1) / layout.present.sum(dim=1, keepdim=True)
