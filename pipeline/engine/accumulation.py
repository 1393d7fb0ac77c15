"""Accumulation of micro-batch gradients in `.grad`; sparse gradients of a word table go to a buffer kept for all steps.

Allocating, adding and clearing a dense gradient of the table at each step would cost more than an encoder layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(slots=True)
class _Table:
    """A parameter's dense gradient, kept between steps, and its rows that may differ from zero."""

    gradient: torch.Tensor
    touched: list[torch.Tensor] = field(default_factory=list)


_TABLES = WeakTensorKeyDictionary()
"""Parameter with sparse gradients → its `_Table`, for as long as the parameter lives."""


def accumulate(parameter: torch.nn.Parameter, gradient: torch.Tensor | None) -> None:
    """Add a gradient to the parameter's `.grad`, which is always dense.

    A sparse gradient (coalesced, of whole rows) is added to a buffer that becomes `.grad`. The buffer is kept when
    `.grad` is set to None: the next sparse gradient first zeroes the rows that the last step touched. Nothing else may
    write to the buffer.
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
