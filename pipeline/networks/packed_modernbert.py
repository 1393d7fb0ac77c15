"""A ModernBERT cross-encoder over a packed batch: positions restart in each pair, and local layers attend in a window.

Pooling follows the configuration: each pair's first token (`cls`, the class's default) or the mean of the pair's tokens
(`mean`, the published models' choice).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pipeline.networks import fused, kernels
from pipeline.networks.packed_attention import FULL, Layout, attend
from pipeline.networks.packed_rows import Rows

GLOBAL, LOCAL = "full_attention", "sliding_attention"


def supports(config: Any) -> bool:
    """Return whether `logits` can compute a ModernBertForSequenceClassification with this configuration."""
    layer_types = set(config.layer_types)
    # Other rotary embeddings depend on the longest pair of the batch.
    default = all(config.rope_parameters[name]["rope_type"] == "default" for name in layer_types & {GLOBAL, LOCAL})
    return layer_types <= {GLOBAL, LOCAL} and default and config.classifier_pooling in ("cls", "mean")


def logits(model: Any, rows: Rows) -> torch.Tensor:
    """Return the logits, (pairs, labels), of a ModernBertForSequenceClassification."""
    encoder, by_first, layout = model.model, model.config.classifier_pooling == "cls", rows.layout
    x, branch = encoder.embeddings(input_ids=rows.ids), None
    rotary = {name: encoder.rotary_emb(x, layout.position, name) for name in set(model.config.layer_types)}
    for number, layer in enumerate(encoder.layers, start=1):
        # As in BERT, only the first tokens are needed after the last attention. Every published model ends with a
        # global layer.
        first_only = by_first and number == len(encoder.layers) and layer.attention_type == GLOBAL
        x, branch = _layer(layer, x, branch, layout, rotary[layer.attention_type], first_only=first_only)
    x = x if branch is None else x + branch
    if by_first and len(x) != layout.pairs:
        x = x[layout.first]
    x = encoder.final_norm(x)
    pooled = x if by_first else _mean(x, layout)
    result: torch.Tensor = model.classifier(model.drop(model.head(pooled)))
    return result


def _layer(
    layer: Any, x: torch.Tensor, branch: torch.Tensor | None, layout: Layout, rotary: tuple[torch.Tensor, torch.Tensor],
    *, first_only: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Compute one encoder layer on x + branch; the layer's output is the sum of the two returned tensors.

    Args:
        layer: a ModernBertEncoderLayer.
        x: (tokens, width).
        branch: as `x`; None before the first layer.
        layout: where the batch's pairs lie.
        rotary: cos and sin of the rotary angles.
        first_only: whether to return the rows of each pair's first token only.
    """
    attention = layer.attn
    size = attention.head_dim
    x, normed = _add_norm(x, branch, layer.attn_norm)
    packed = attention.Wqkv(normed).view(len(x), 3, -1, size)
    query, key, value = _Rotary.apply(packed, *rotary)  # type: ignore[no-untyped-call]
    if first_only:
        query, x = query[layout.first], x[layout.first]
    context = attend(
        query, key, value, layout, scale=size**-0.5, first_only=first_only,
        dropout=attention.attention_dropout if layer.training else 0.0,
        window=layer.config.sliding_window if layer.attention_type == LOCAL else FULL,
    )  # fmt: skip
    x, normed = _add_norm(x, attention.out_drop(attention.Wo(context)), layer.mlp_norm)
    return x, _feed_forward(layer.mlp, normed)


def _add_norm(x: torch.Tensor, branch: torch.Tensor | None, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the residual sum x + branch, and its norm."""
    if branch is None:
        return x, norm(x)
    if x.dtype is torch.float32 and norm.bias is None and fused.available_for(branch):
        total, normed = _AddNorm.apply(x, branch, norm.weight, norm.eps)  # type: ignore[no-untyped-call]
        return total, normed
    total = x + branch
    return total, norm(total)


def _feed_forward(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    rows = mlp.Wi(x)
    if mlp.config.hidden_activation == "gelu" and fused.available_for(rows):
        activated = _GeGLU.apply(rows)  # type: ignore[no-untyped-call]
    else:
        inner, gate = rows.chunk(2, dim=-1)
        activated = mlp.act(inner) * gate
    result: torch.Tensor = mlp.Wo(mlp.drop(activated))
    return result


class _AddNorm(torch.autograd.Function):
    """Residual sum and its norm (`kernels.add_norm`); the gradients through both are computed together."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, branch: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total, normed, mean, rstd = kernels.add_norm(x.contiguous(), branch.contiguous(), weight, eps)
        ctx.save_for_backward(total, mean, rstd, weight)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor, grad_normed: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = kernels.add_norm_backward(grad_total.contiguous(), grad_normed.contiguous(), *ctx.saved_tensors)
        return (*grads, None)


class _GeGLU(torch.autograd.Function):
    """GELU of each row's first half times its second half; only the rows are saved for the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        return kernels.geglu(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> torch.Tensor:
        (rows,) = ctx.saved_tensors
        return kernels.geglu_backward(rows, grad_output.contiguous())


class _Rotary(torch.autograd.Function):
    """Splits (tokens, 3, heads, size) into queries, keys and values, and applies rotary to the first two.

    The three share one gradient tensor. Autograd's own gradient of each part is as large as the whole and mostly zeros,
    and passes over memory are most of a layer's cost besides its matmuls.
    """

    @staticmethod
    def forward(ctx: Any, packed: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        if fused.available_for(packed):
            query, key, value = packed.unbind(1)
            return kernels.apply_rotary(query, key, value, cos, sin).unbind(1)
        # Values are copied: a view would keep the queries and keys from before rotary in memory.
        output = torch.empty_like(packed)
        output[:, :2], output[:, 2] = _apply_rotary(packed[:, :2], cos, sin), packed[:, 2]
        return output.unbind(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        query, key, value = grad_outputs
        # The gradient of a rotation is the rotation by the negative angle.
        if fused.available_for(value):
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
            return kernels.apply_rotary(query, key, value, cos, sin, is_gradient=True), None, None
        grad_packed = value.new_empty(len(value), 3, *value.shape[1:])
        grad_packed[:, 0], grad_packed[:, 1] = (
            _apply_rotary(query, cos, -sin, is_gradient=True),
            _apply_rotary(key, cos, -sin, is_gradient=True),
        )
        grad_packed[:, 2] = value
        return grad_packed, None, None


def _apply_rotary(
    rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, is_gradient: bool = False
) -> torch.Tensor:
    """Apply rotary position embedding to (tokens, …, size) by angles (tokens, size), computed in fp32.

    Args:
        rows: bf16 or fp32. For fp64, which only tests run, transformers rotates rows rounded to fp32 and rounds each
            product of their gradient to fp32; so does this function.
        cos: fp32, equal in both halves.
        sin: as `cos`.
        is_gradient: whether `rows` are a gradient, for which the caller negates `sin`.
    """
    angles = (len(rows), *(1 for _ in rows.shape[1:-1]), rows.shape[-1])
    cos, sin = cos.view(angles), sin.view(angles)
    half = rows.shape[-1] // 2
    is_fp64 = rows.dtype is torch.float64
    rows = rows.float() if is_fp64 and not is_gradient else rows
    output, low, high = rows * cos, rows[..., half:] * sin[..., :half], rows[..., :half] * sin[..., half:]
    if is_fp64 and is_gradient:
        output, low, high = output.float().double(), low.float(), high.float()
    output[..., :half].sub_(low)
    output[..., half:].add_(high)
    return output


def _mean(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return the mean of each pair's rows, (pairs, width); its sums repeat to the bit, on a GPU too."""
    return layout.by_pair(x).sum(dim=1) / layout.present.sum(dim=1, keepdim=True)
