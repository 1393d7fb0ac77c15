"""Gradients of micro-batches added up in `.grad`; a word table's are sparse, and it has one buffer for all steps.

A dense gradient of the table made, added and cleared anew each step costs more than a layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(slots=True)
class _Table:
    """A parameter's gradient, kept between steps, and the rows that are not zero in it."""

    gradient: torch.Tensor
    touched: list[torch.Tensor] = field(default_factory=list)


_TABLES = WeakTensorKeyDictionary()
"""Of each parameter with sparse gradients its `_Table`, as long as it lives."""


def accumulate(parameter: torch.nn.Parameter, gradient: torch.Tensor | None) -> None:
    """Add a gradient to the parameter's `.grad`, which is always dense.

    A sparse one (coalesced, of whole rows) goes to a buffer that outlives `.grad`: where that is None again, the rows
    of the last step are cleared, and nothing else may have written to it.
    """
    if gradient is None:
        return
    if gradient.is_sparse:
        _add_rows(parameter, gradient)
    elif parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)


def _add_rows(parameter: torch.nn.Parameter, gradient: torch.Tensor) -> None:
    (rows,), values = gradient.indices(), gradient.values()
    table = _TABLES.get(parameter)  # type: ignore[no-untyped-call]
    if table is None or table.gradient.dtype != parameter.dtype or table.gradient.shape != parameter.shape:
        table = _TABLES[parameter] = _Table(torch.zeros_like(parameter, requires_grad=False))
    if parameter.grad is None:
        for touched in table.touched:
            table.gradient[touched] = 0.0
        table.touched = []
        parameter.grad = table.gradient
    if parameter.grad is table.gradient:
        table.touched.append(rows)
    parameter.grad.index_add_(0, rows, values)
