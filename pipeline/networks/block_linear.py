"""A BERT layer's linear layers on a CPU while its weights are fixed: most are cast and packed once, then used often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F


class Linear:
    """Linear layers with the same input as one matmul, in a given dtype; no gradient reaches the modules' weights."""

    def __init__(self, modules: list[Any], dtype: torch.dtype, *, keep_weight: bool = False) -> None:
        """Copy the modules' current weights.

        Args:
            modules: `torch.nn.Linear`s with the same input; their outputs are concatenated.
            dtype: of the matmul.
            keep_weight: whether to keep the unpacked weight too, for a gradient.
        """
        with torch.no_grad():
            weight = torch.cat([module.weight.to(dtype) for module in modules])
            self._bias = torch.cat([module.bias.to(dtype) for module in modules])
            # As torch.compile does for a frozen linear layer: otherwise oneDNN rearranges the weights at each call.
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight) if _packs(dtype) else None
            self._weight = weight if keep_weight or self._packed is None else None

    @property
    def weight(self) -> torch.Tensor:
        """The unpacked weight (outputs, inputs), if it was kept."""
        assert self._weight is not None
        return self._weight

    def __call__(self, x: torch.Tensor, *, gelu: bool = False) -> torch.Tensor:
        """Return the outputs (rows, outputs) for x (rows, inputs), after GELU if `gelu`; not for use with autograd."""
        if self._packed is None:
            output = F.linear(x, self.weight, self._bias)
            return F.gelu(output) if gelu else output
        activation, algorithm = ("gelu", "none") if gelu else ("none", "")  # "none": by erf, as in BERT
        linear = torch.ops.mkldnn._linear_pointwise
        return linear(x, self._packed, self._bias, activation, [], algorithm)  # type: ignore[no-any-return]


class FirstTokenLinears:
    """Query, key and value layers of an attention in which only each pair's first token is a query (`block_first`).

    The key and value layers are the parameters themselves, in their own dtype and not copied.
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
        """Reshape rows (queries, heads * size) to (heads, queries, size)."""
        return rows.view(len(rows), self.heads, -1).transpose(0, 1)


@dataclass(slots=True)
class LayerLinears:
    """The linear layers of one encoder layer."""

    qkv: Linear | FirstTokenLinears
    """One matmul for queries, keys and values, or the layers of an attention whose only queries are first tokens."""
    out: Linear
    up: Linear
    down: Linear


def linears_of(
    layers: Any, dtype: torch.dtype, *, keep_weight: bool = False, first_only: bool = True
) -> list[LayerLinears]:
    """Return the linear layers of a BERT's encoder layers, see `Linear`.

    With `first_only`, only each pair's first token is a query in the last encoder layer.
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
    """Return whether oneDNN multiplies this dtype on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
