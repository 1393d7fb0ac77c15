"""A BERT cross-encoder on a CPU, its gradient written out: transformers' results under autocast, to rounding.

Rows are tokens, pairs of like length in blocks (`block_attention`). Against automatic differentiation this saves casts
of activations and of their gradients, the dense gradient of the embedding table, fused attention's slow gradient and
dropout's slow random numbers; the last layer computes each pair's first token alone (`block_first`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from pipeline.engine import block_embeddings, block_first, packed_bert
from pipeline.engine.block_attention import Block, Kept, attend, blocks_of, gradients
from pipeline.engine.block_linear import FirstProducts, Linear, Products, products_of
from pipeline.engine.dropout import Dropout, drawn_seed, drop_, scale

Tensors = tuple[torch.Tensor, ...]


def supports(config: Any) -> bool:
    """Whether `logits` computes a BertForSequenceClassification of this configuration."""
    return packed_bert.supports(config) and config.hidden_act == "gelu"


def logits(
    model: Any, batch: dict[str, torch.Tensor], weights: list[Products] | None = None, seed: int | None = None
) -> torch.Tensor:
    """Logits (pairs, labels) of a BertForSequenceClassification for a batch made by `collation.blocks`.

    Runs in autocast's type where that is on, in the weights' own elsewhere. The word table's gradient is sparse.

    Args:
        model: in training or evaluation mode.
        batch: the pairs.
        weights: the layers' `narrowed`, where micro-batches share them.
        seed: of dropout's masks; None asks torch's generator for one. With a seed nothing global is drawn from.
    """
    bert = model.bert
    blocks = blocks_of(batch)
    dropout = Dropout(drawn_seed() if seed is None else seed) if model.training else None
    x = block_embeddings.embed(bert.embeddings, batch, dropout)
    for layer, cast in zip(bert.encoder.layer, weights or narrowed(model), strict=True):
        work = _Work(layer, cast, blocks, dropout, batch["firsts"])
        x = _Layer.apply(x, work, *_parameters(layer))  # type: ignore[no-untyped-call]
    pooled = bert.pooler.activation(bert.pooler.dense(x))
    if dropout is not None and (rate := model.dropout.p) > 0.0:
        pooled = pooled * drop_(torch.full(pooled.shape, scale(rate)), dropout.mask(tuple(pooled.shape), rate))
    result: torch.Tensor = model.classifier(pooled)
    return result[: len(batch["lengths"])]


def narrowed(model: Any) -> list[Products]:
    """Each layer's products in autocast's type where that is on, in the weights' own elsewhere."""
    layers = model.bert.encoder.layer
    on = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if on else layers[-1].output.LayerNorm.weight.dtype
    return products_of(layers, dtype, keep_weight=True)


def _parameters(layer: Any) -> list[torch.nn.Parameter]:
    """The order in which `_Layer.backward` returns gradients."""
    attention, output = layer.attention.self, layer.attention.output
    modules = (attention.query, attention.key, attention.value, output.dense, output.LayerNorm,
               layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm)  # fmt: skip
    return [parameter for module in modules for parameter in (module.weight, module.bias)]


class _Work:
    """One layer's pass over one micro-batch."""

    def __init__(
        self, layer: Any, weights: Products, blocks: list[Block], dropout: Dropout | None, firsts: torch.Tensor
    ) -> None:
        self.layer, self.weights, self.blocks, self.dropout, self.firsts = layer, weights, blocks, dropout, firsts
        self.heads = layer.attention.self.num_attention_heads
        self.attention_rate = layer.attention.self.dropout.p
        self.dtype = weights.out.weight.dtype


@dataclass(slots=True)
class _Saved:
    """What a layer's forward pass leaves for its gradient."""

    x: torch.Tensor
    """What asks, in the products' type: all rows, or each pair's first."""
    attention: list[Kept] | block_first.Kept
    context: torch.Tensor
    attended: _Residual
    x1: torch.Tensor
    up: torch.Tensor
    activated: torch.Tensor
    fed: _Residual


@dataclass(slots=True)
class _Residual:
    """What a residual sum and its norm leave."""

    total: torch.Tensor
    mean: torch.Tensor
    inverse: torch.Tensor
    mask: torch.Tensor | None


class _Layer(torch.autograd.Function):
    """One encoder layer; where first tokens ask alone its rows are theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, work: _Work, *parameters: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            found, ctx.saved = _forward(x, work)
        ctx.work = work
        return found

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            to_x, to_parameters = _backward(gradient[0], ctx.work, ctx.saved)
        ctx.saved = ctx.work = None
        return to_x, None, *to_parameters


def _forward(x: torch.Tensor, work: _Work) -> tuple[torch.Tensor, _Saved]:
    weights, layer = work.weights, work.layer
    attention: list[Kept] | block_first.Kept
    if isinstance(weights.into, FirstProducts):
        x, narrow, context, attention = _attend_first(x, weights.into, work)
    else:
        narrow = x.to(work.dtype)
        context, attention = _attend(narrow, weights.into, work)
    x1, attended = _add_norm(x, weights.out(context), work, layer.attention.output)
    narrow1 = x1.to(work.dtype)
    up = weights.up(narrow1)
    activated = F.gelu(up)
    x2, fed = _add_norm(x1, weights.down(activated), work, layer.output)
    return x2, _Saved(narrow, attention, context, attended, narrow1, up, activated, fed)


def _attend(x: torch.Tensor, into: Linear, work: _Work) -> tuple[torch.Tensor, list[Kept]]:
    query, key_value = into(x).tensor_split([x.shape[1]], dim=1)
    return attend(query, key_value, work.blocks, heads=work.heads, dropout=work.dropout, rate=work.attention_rate)


def _attend_first(
    x: torch.Tensor, into: FirstProducts, work: _Work
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, block_first.Kept]:
    """Rows of each pair's first token, the same in the products' type, their context, and what its gradient needs."""
    first = x[work.firsts]
    asking = first.to(work.dtype)
    query = into.query(asking).to(x.dtype)
    context, kept = block_first.attend(query, x, into, work.blocks, dropout=work.dropout, rate=work.attention_rate)
    return first, asking, context.to(work.dtype), kept


def _add_norm(x: torch.Tensor, y: torch.Tensor, work: _Work, output: Any) -> tuple[torch.Tensor, _Residual]:
    """LayerNorm of x plus y after dropout; y is overwritten."""
    mask, rate = None, output.dropout.p
    if work.dropout is not None and rate > 0.0:
        mask = work.dropout.mask(tuple(y.shape), rate)
        total = torch.add(x, drop_(y, mask), alpha=scale(rate))
    else:
        total = x + y
    norm = output.LayerNorm
    found, mean, inverse = torch.native_layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return found, _Residual(total, mean, inverse, mask)


def _backward(gradient: torch.Tensor, work: _Work, saved: _Saved) -> tuple[torch.Tensor, list[torch.Tensor]]:
    weights, layer = work.weights, work.layer
    wide = gradient.dtype
    to_x1, to_down, norm2 = _add_norm_gradient(gradient, saved.fed, work, layer.output)
    down = _linear_gradient(to_down, saved.activated, wide)
    to_up = torch.ops.aten.gelu_backward(torch.mm(to_down, weights.down.weight), saved.up)
    up = _linear_gradient(to_up, saved.x1, wide)
    to_x1 += torch.mm(to_up, weights.up.weight)
    to_x, to_out, norm1 = _add_norm_gradient(to_x1, saved.attended, work, layer.attention.output)
    out = _linear_gradient(to_out, saved.context, wide)
    to_context = torch.mm(to_out, weights.out.weight)
    through = _first_gradient if isinstance(weights.into, FirstProducts) else _attention_gradient
    to_x, into = through(to_x, to_context, work, saved)
    return to_x, [*into, *out, *norm1, *up, *down, *norm2]


def _attention_gradient(
    to_x: torch.Tensor, to_context: torch.Tensor, work: _Work, saved: _Saved
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradients of a layer's input and of its queries', keys' and values' weights and biases.

    `to_x` is what of the first goes past the attention.
    """
    assert isinstance(work.weights.into, Linear) and isinstance(saved.attention, list)
    to_into = saved.x.new_empty(len(saved.x), 3 * to_x.shape[1])
    to_query, to_key_value = to_into.tensor_split([to_x.shape[1]], dim=1)
    gradients(
        to_context, saved.attention, work.blocks, heads=work.heads, rate=work.attention_rate, query=to_query,
        key_value=to_key_value,
    )  # fmt: skip
    weight, bias = (found.tensor_split(3) for found in _linear_gradient(to_into, saved.x, to_x.dtype))
    to_x += torch.mm(to_into, work.weights.into.weight)
    return to_x, [part for both in zip(weight, bias, strict=True) for part in both]


def _first_gradient(
    to_x: torch.Tensor, to_context: torch.Tensor, work: _Work, saved: _Saved
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The same where first tokens ask alone; `to_x` is of those."""
    into, wide = work.weights.into, to_x.dtype
    assert isinstance(into, FirstProducts) and isinstance(saved.attention, block_first.Kept)
    found = block_first.gradients(to_context.to(wide), saved.attention, into, work.blocks, rate=work.attention_rate)
    to_query = found.query.to(work.dtype)
    to_x += torch.mm(to_query, into.query.weight)
    query = _linear_gradient(to_query, saved.x, wide)
    key_bias = to_x.new_zeros(to_x.shape[1])
    return found.x.index_add_(0, work.firsts, to_x), [*query, found.key, key_bias, found.value, found.value_bias]


def _add_norm_gradient(
    gradient: torch.Tensor, saved: _Residual, work: _Work, output: Any
) -> tuple[torch.Tensor, torch.Tensor, Tensors]:
    """Gradients of `_add_norm`: of x, of y in the products' type, and of the norm's weight and bias."""
    norm = output.LayerNorm
    to_total, to_weight, to_bias = torch.ops.aten.native_layer_norm_backward(
        gradient, saved.total, norm.normalized_shape, saved.mean, saved.inverse, norm.weight, norm.bias,
        [True, True, True],
    )  # fmt: skip
    if saved.mask is None:
        return to_total, to_total.to(work.dtype, copy=True), (to_weight, to_bias)
    to_y = drop_(torch.mul(to_total, scale(output.dropout.p)).to(work.dtype), saved.mask)
    return to_total, to_y, (to_weight, to_bias)


def _linear_gradient(gradient: torch.Tensor, x: torch.Tensor, wide: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of a linear layer's weight and bias from its output's."""
    return torch.mm(gradient.t(), x).to(wide), gradient.sum(0).to(wide)
