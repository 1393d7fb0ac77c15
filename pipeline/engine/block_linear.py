"""A BERT layer's products on a CPU while weights stand still: cast and packed once, then multiplied many times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F


class Linear:
    """Linear layers of one input as one product, in a type of its own; no gradient goes through its making."""

    def __init__(self, modules: list[Any], dtype: torch.dtype, *, keep_weight: bool = False) -> None:
        """Take the weights as they are.

        Args:
            modules: `torch.nn.Linear`s of one input; their outputs come side by side.
            dtype: in which is multiplied.
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
        """The product (rows, outputs) of x (rows, inputs), then GELU or nothing; outside a graph of gradients."""
        if self._packed is None:
            found = F.linear(x, self.weight, self._bias)
            return F.gelu(found) if gelu else found
        activation, algorithm = ("gelu", "none") if gelu else ("none", "")  # "none": by erf, as BERT's
        product = torch.ops.mkldnn._linear_pointwise
        return product(x, self._packed, self._bias, activation, [], algorithm)  # type: ignore[no-any-return]


@dataclass(slots=True)
class Products:
    """One encoder layer's; the last asks for each pair's first token only, so its queries stand alone."""

    query: Linear | None
    into: Linear
    """Queries, keys and values; without queries where `query` has them."""
    out: Linear
    up: Linear
    down: Linear


def products_of(layers: Any, dtype: torch.dtype, *, keep_weight: bool = False) -> list[Products]:
    """The products of a BERT's encoder layers; see `Linear`."""

    def linear(*modules: Any) -> Linear:
        return Linear(list(modules), dtype, keep_weight=keep_weight)

    found = []
    for layer in layers:
        own, last = layer.attention.self, layer is layers[-1]
        found.append(
            Products(
                query=linear(own.query) if last else None,
                into=linear(own.key, own.value) if last else linear(own.query, own.key, own.value),
                out=linear(layer.attention.output.dense),
                up=linear(layer.intermediate.dense),
                down=linear(layer.output.dense),
            )
        )
    return found


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this type on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
