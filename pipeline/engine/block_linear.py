"""A BERT layer's linear layers on a CPU while weights stand still: most cast and packed once, then used many times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F


class Linear:
    """Linear layers of one input as one matmul, in a dtype of its own; no gradient reaches the modules' weights."""

    def __init__(self, modules: list[Any], dtype: torch.dtype, *, keep_weight: bool = False) -> None:
        """Take the weights as they are.

        Args:
            modules: `torch.nn.Linear`s of one input; their outputs come side by side.
            dtype: of the matmul.
            keep_weight: whether the weight is wanted for a gradient, beside its packed form.
        """
        with torch.no_grad():
            weight = torch.cat([module.weight.to(dtype) for module in modules])
            self._bias = torch.cat([module.bias.to(dtype) for module in modules])
            # What torch.compile calls for a frozen linear layer: otherwise oneDNN rearranges the weights each time.
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight) if _packs(dtype) else None
            self._weight = weight if keep_weight or self._packed is None else None

    @property
    def weight(self) -> torch.Tensor:
        """(outputs, inputs), where it was kept."""
        assert self._weight is not None
        return self._weight

    def __call__(self, x: torch.Tensor, *, gelu: bool = False) -> torch.Tensor:
        """The outputs (rows, outputs) of x (rows, inputs), then GELU if asked for; not recorded by autograd."""
        if self._packed is None:
            output = F.linear(x, self.weight, self._bias)
            return F.gelu(output) if gelu else output
        activation, algorithm = ("gelu", "none") if gelu else ("none", "")  # "none": by erf, as BERT's
        linear = torch.ops.mkldnn._linear_pointwise
        return linear(x, self._packed, self._bias, activation, [], algorithm)  # type: ignore[no-any-return]


class FirstTokenLinears:
    """Query, key and value layers of an attention in which each pair's first token alone is a query (`block_first`).

    Those of keys and values are the parameters themselves, in their own dtype and not copied.
    """

    def __init__(self, attention: Any, dtype: torch.dtype, *, keep_weight: bool) -> None:
        self.heads, self.scaling = attention.num_attention_heads, attention.attention_head_size**-0.5
        self.query = Linear([attention.query], dtype, keep_weight=keep_weight)
        self.key, self.value, self.value_bias = (
            parameter.detach().unflatten(0, (self.heads, -1))
            for parameter in (attention.key.weight, attention.value.weight, attention.value.bias)
        )
        """(heads, size, inputs), the same, and (heads, size)."""

    def split(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (queries, heads * size) as (heads, queries, size)."""
        return rows.view(len(rows), self.heads, -1).transpose(0, 1)


@dataclass(slots=True)
class LayerLinears:
    """The linear layers of one encoder layer."""

    qkv: Linear | FirstTokenLinears
    """Queries, keys and values side by side, or those of a layer whose queries are first tokens alone."""
    out: Linear
    up: Linear
    down: Linear


def linears_of(
    layers: Any, dtype: torch.dtype, *, keep_weight: bool = False, first_only: bool = True
) -> list[LayerLinears]:
    """The linear layers of a BERT's encoder layers, see `Linear`.

    `first_only`: in the last encoder layer each pair's first token alone is a query.
    """

    def linear(*modules: Any) -> Linear:
        return Linear(list(modules), dtype, keep_weight=keep_weight)

    linears = []
    for layer in layers:
        attention = layer.attention.self
        if first_only and layer is layers[-1]:
            qkv: Linear | FirstTokenLinears = FirstTokenLinears(attention, dtype, keep_weight=keep_weight)
        else:
            qkv = linear(attention.query, attention.key, attention.value)
        linears.append(
            LayerLinears(
                qkv=qkv,
                out=linear(layer.attention.output.dense),
                up=linear(layer.intermediate.dense),
                down=linear(layer.output.dense),
            )
        )
    return linears


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this dtype on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
