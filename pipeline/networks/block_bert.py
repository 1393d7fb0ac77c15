"""A BERT cross-encoder on a CPU with a hand-written gradient: transformers' results under autocast, to rounding.

Rows are tokens; pairs of similar length form blocks (`block_attention`). Compared with automatic differentiation this
saves casts of activations and of their gradients, the dense gradient of the embedding table, fused attention's slow
gradient and dropout's slow random numbers. In the last layer only each pair's first token is a query (`block_first`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from pipeline.networks import block_embeddings, block_first, packed_bert
from pipeline.networks.block_attention import Block, Kept, attend, blocks_of, gradients
from pipeline.networks.block_linear import FirstTokenLinears, LayerLinears, Linear, linears_of
from pipeline.networks.dropout import Dropout, drawn_seed, drop_, scale

Tensors = tuple[torch.Tensor, ...]


def supports(config: Any) -> bool:
    """Return whether `logits` computes a BertForSequenceClassification of this configuration."""
    return packed_bert.supports(config) and config.hidden_act == "gelu"


def logits(
    model: Any, batch: dict[str, torch.Tensor], weights: list[LayerLinears] | None = None, seed: int | None = None
) -> torch.Tensor:
    """Return the logits (pairs, labels) of a BertForSequenceClassification for a batch made by `collation.blocks`.

    Computes in autocast's dtype where autocast is on, else in the weights' dtype. The word table's gradient is sparse.

    Args:
        model: in training or evaluation mode.
        batch: the pairs.
        weights: the result of `cast_weights`, for micro-batches to share; None casts the weights for this call.
        seed: seeds dropout's masks; None draws a seed from torch's generator. With a seed no global generator is used.
    """
    bert = model.bert
    blocks = blocks_of(batch)
    dropout = Dropout(drawn_seed() if seed is None else seed) if model.training else None
    x = block_embeddings.embed(bert.embeddings, batch, dropout)
    for layer, cast in zip(bert.encoder.layer, weights or cast_weights(model), strict=True):
        work = _Work(layer, cast, blocks, dropout, batch["first_tokens"])
        x = _Layer.apply(x, work, *_parameters(layer))  # type: ignore[no-untyped-call]
    pooled = bert.pooler.activation(bert.pooler.dense(x))
    if dropout is not None and (rate := model.dropout.p) > 0.0:
        pooled = pooled * drop_(torch.full(pooled.shape, scale(rate)), dropout.mask(tuple(pooled.shape), rate))
    result: torch.Tensor = model.classifier(pooled)
    return result[: len(batch["lengths"])]


def cast_weights(model: Any) -> list[LayerLinears]:
    """Return each layer's linear layers, in autocast's dtype where autocast is on, else in the weights' dtype."""
    layers = model.bert.encoder.layer
    on = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if on else layers[-1].output.LayerNorm.weight.dtype
    return linears_of(layers, dtype, keep_weight=True)


def _parameters(layer: Any) -> list[torch.nn.Parameter]:
    """Return one layer's parameters, in the order in which `_Layer.backward` returns their gradients."""
    attention, output = layer.attention.self, layer.attention.output
    modules = (attention.query, attention.key, attention.value, output.dense, output.LayerNorm,
               layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm)  # fmt: skip
    return [parameter for module in modules for parameter in (module.weight, module.bias)]


@dataclass(slots=True)
class _Work:
    """What one encoder layer's forward and backward pass over one micro-batch need."""

    layer: Any
    weights: LayerLinears
    """The layer's linear layers, as `cast_weights` returns them."""
    blocks: list[Block]
    dropout: Dropout | None
    """None in evaluation mode."""
    first_tokens: torch.Tensor
    """The row of each pair's first token, then padding (`collation.blocks`)."""
    heads: int = field(init=False)
    attention_rate: float = field(init=False)
    compute_dtype: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        self.heads = self.layer.attention.self.num_attention_heads
        self.attention_rate = self.layer.attention.self.dropout.p
        self.compute_dtype = self.weights.out.weight.dtype


@dataclass(slots=True)
class _Saved:
    """What a layer's forward pass keeps for its gradient; activations are in the compute dtype."""

    x: torch.Tensor
    """The queries' input: all rows, or each pair's first token."""
    attention: list[Kept] | block_first.Kept
    context: torch.Tensor
    attended: _Residual
    x1: torch.Tensor
    up: torch.Tensor
    activated: torch.Tensor
    fed_forward: _Residual


@dataclass(slots=True)
class _Residual:
    """What a residual sum and its norm keep for their gradient."""

    total: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor
    dropout_mask: torch.Tensor | None


class _Layer(torch.autograd.Function):
    """One encoder layer; where only first tokens are queries, it returns only their rows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, work: _Work, *parameters: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            output, ctx.saved = _forward(x, work)
        ctx.work = work
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            grad_x, grad_parameters = _backward(grad_outputs[0], ctx.work, ctx.saved)
        ctx.saved = ctx.work = None
        return grad_x, None, *grad_parameters


def _forward(x: torch.Tensor, work: _Work) -> tuple[torch.Tensor, _Saved]:
    weights, layer = work.weights, work.layer
    attention: list[Kept] | block_first.Kept
    if isinstance(weights.qkv, FirstTokenLinears):
        x, x_cast, context, attention = _attend_first(x, weights.qkv, work)
    else:
        x_cast = x.to(work.compute_dtype)
        context, attention = _attend(x_cast, weights.qkv, work)
    x1, attended = _add_norm(x, weights.out(context), work, layer.attention.output)
    x1_cast = x1.to(work.compute_dtype)
    up = weights.up(x1_cast)
    activated = F.gelu(up)
    x2, fed_forward = _add_norm(x1, weights.down(activated), work, layer.output)
    return x2, _Saved(x_cast, attention, context, attended, x1_cast, up, activated, fed_forward)


def _attend(x: torch.Tensor, qkv: Linear, work: _Work) -> tuple[torch.Tensor, list[Kept]]:
    query, key_value = qkv(x).tensor_split([x.shape[1]], dim=1)
    return attend(query, key_value, work.blocks, heads=work.heads, dropout=work.dropout, rate=work.attention_rate)


def _attend_first(
    x: torch.Tensor, qkv: FirstTokenLinears, work: _Work
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, block_first.Kept]:
    """Return the first tokens' rows, the same in the compute dtype, their context, and what its gradient needs."""
    first = x[work.first_tokens]
    first_cast = first.to(work.compute_dtype)
    query = qkv.query(first_cast).to(x.dtype)
    context, kept = block_first.attend(query, x, qkv, work.blocks, dropout=work.dropout, rate=work.attention_rate)
    return first, first_cast, context.to(work.compute_dtype), kept


def _add_norm(x: torch.Tensor, y: torch.Tensor, work: _Work, output: Any) -> tuple[torch.Tensor, _Residual]:
    """Return the LayerNorm of x plus y, with dropout on y, and what its gradient needs; y is overwritten."""
    dropout_mask, rate = None, output.dropout.p
    if work.dropout is not None and rate > 0.0:
        dropout_mask = work.dropout.mask(tuple(y.shape), rate)
        total = torch.add(x, drop_(y, dropout_mask), alpha=scale(rate))
    else:
        total = x + y
    norm = output.LayerNorm
    normed, mean, rstd = torch.native_layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return normed, _Residual(total, mean, rstd, dropout_mask)


def _backward(grad_output: torch.Tensor, work: _Work, saved: _Saved) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the gradients of a layer's input and of its `_parameters`."""
    weights, layer, param_dtype = work.weights, work.layer, grad_output.dtype
    grad_x1, grad_down, norm2 = _add_norm_gradient(grad_output, saved.fed_forward, work, layer.output)
    down = _linear_gradient(grad_down, saved.activated, param_dtype)
    grad_up = torch.ops.aten.gelu_backward(torch.mm(grad_down, weights.down.weight), saved.up)
    up = _linear_gradient(grad_up, saved.x1, param_dtype)
    grad_x1 += torch.mm(grad_up, weights.up.weight)
    grad_x, grad_out, norm1 = _add_norm_gradient(grad_x1, saved.attended, work, layer.attention.output)
    out = _linear_gradient(grad_out, saved.context, param_dtype)
    grad_context = torch.mm(grad_out, weights.out.weight)
    attention_gradient = _first_gradient if isinstance(weights.qkv, FirstTokenLinears) else _attention_gradient
    grad_x, qkv = attention_gradient(grad_x, grad_context, work, saved)
    return grad_x, [*qkv, *out, *norm1, *up, *down, *norm2]


def _attention_gradient(
    grad_x: torch.Tensor, grad_context: torch.Tensor, work: _Work, saved: _Saved
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the gradients of a layer's input and of the weights and biases of its query, key and value layers.

    `grad_x` is the residual connection's part of the input's gradient; the attention's part is added to it in place.
    """
    assert isinstance(work.weights.qkv, Linear) and isinstance(saved.attention, list)
    grad_qkv = saved.x.new_empty(len(saved.x), 3 * grad_x.shape[1])
    grad_query, grad_key_value = grad_qkv.tensor_split([grad_x.shape[1]], dim=1)
    gradients(
        grad_context, saved.attention, work.blocks, heads=work.heads, rate=work.attention_rate, grad_query=grad_query,
        grad_key_value=grad_key_value,
    )  # fmt: skip
    weight, bias = (grad.tensor_split(3) for grad in _linear_gradient(grad_qkv, saved.x, grad_x.dtype))
    grad_x += torch.mm(grad_qkv, work.weights.qkv.weight)
    return grad_x, [part for both in zip(weight, bias, strict=True) for part in both]


def _first_gradient(
    grad_x: torch.Tensor, grad_context: torch.Tensor, work: _Work, saved: _Saved
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Compute `_attention_gradient` where only first tokens are queries; `grad_x` has only their rows."""
    qkv, dtype = work.weights.qkv, grad_x.dtype
    assert isinstance(qkv, FirstTokenLinears) and isinstance(saved.attention, block_first.Kept)
    grads = block_first.gradients(grad_context.to(dtype), saved.attention, qkv, work.blocks, rate=work.attention_rate)
    grad_query = grads.query.to(work.compute_dtype)
    grad_x += torch.mm(grad_query, qkv.query.weight)
    query = _linear_gradient(grad_query, saved.x, dtype)
    key_bias = grad_x.new_zeros(grad_x.shape[1])
    parameters = [*query, grads.key, key_bias, grads.value, grads.value_bias]
    return grads.x.index_add_(0, work.first_tokens, grad_x), parameters


def _add_norm_gradient(
    grad_output: torch.Tensor, saved: _Residual, work: _Work, output: Any
) -> tuple[torch.Tensor, torch.Tensor, Tensors]:
    """Return the gradients of `_add_norm`: of x, of y in the compute dtype, and of the norm's weight and bias."""
    norm = output.LayerNorm
    grad_total, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
        grad_output, saved.total, norm.normalized_shape, saved.mean, saved.rstd, norm.weight, norm.bias,
        [True, True, True],
    )  # fmt: skip
    if saved.dropout_mask is None:
        return grad_total, grad_total.to(work.compute_dtype, copy=True), (grad_weight, grad_bias)
    grad_y = drop_(torch.mul(grad_total, scale(output.dropout.p)).to(work.compute_dtype), saved.dropout_mask)
    return grad_total, grad_y, (grad_weight, grad_bias)


def _linear_gradient(grad: torch.Tensor, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of a linear layer's weight and bias, in `dtype`, given the gradient of its output."""
    return torch.mm(grad.t(), x).to(dtype), grad.sum(0).to(dtype)
