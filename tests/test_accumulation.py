"""Gradients added up: dense ones in place, sparse ones in a buffer that is kept and starts each step from zero."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from pipeline.engine import accumulation
from pipeline.engine.accumulation import accumulate


def rows(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient as a sparse tensor of the rows that are not zero."""
    return gradient.to_sparse(1).coalesce()


def drawn(seed: int, *kept: int) -> torch.Tensor:
    """A gradient (9, 4) of which only some rows are not zero."""
    full = torch.zeros(9, 4)
    full[list(kept)] = torch.randn(len(kept), 4, generator=torch.Generator().manual_seed(seed))
    return full


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_sum_is_dense_and_each_step_starts_from_zero(sparse: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(9, 4))
    for step in range(3):
        parts = [drawn(step, 1, step, 4), drawn(step + 10, step, 5), drawn(step + 20, 8)]
        parameter.grad = None
        for part in parts:
            accumulate(parameter, rows(part) if sparse else part.clone())
        assert parameter.grad is not None and not parameter.grad.is_sparse
        assert torch.equal(parameter.grad, parts[0] + parts[1] + parts[2]), step


def test_sparse_gradient_is_added_to_dense_and_dropped_when_grad_is_reset() -> None:
    parameter, dense = torch.nn.Parameter(torch.ones(9, 4)), drawn(1, 2, 3)
    accumulate(parameter, rows(drawn(2, 0)))
    parameter.grad = dense.clone()
    accumulate(parameter, rows(drawn(3, 3)))
    assert torch.equal(parameter.grad, dense + drawn(3, 3))
    parameter.grad = None
    accumulate(parameter, rows(drawn(4, 7)))
    assert parameter.grad is not None and torch.equal(parameter.grad, drawn(4, 7))


def test_accumulating_none_leaves_grad_none() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    accumulate(parameter, None)
    assert parameter.grad is None


def test_buffer_is_kept_between_steps_and_freed_with_its_parameter() -> None:
    parameter = torch.nn.Parameter(torch.ones(9, 4))
    accumulate(parameter, rows(drawn(1, 1)))
    buffer = parameter.grad
    parameter.grad = None
    accumulate(parameter, rows(drawn(2, 1)))
    assert parameter.grad is buffer and buffer is not None
    assert len(accumulation._TABLES[parameter].touched) == 1, "of this step alone"
    kept = weakref.ref(accumulation._TABLES[parameter].gradient)
    del parameter, buffer
    gc.collect()
    assert kept() is None


def test_parameter_of_a_new_dtype_gets_a_new_buffer() -> None:
    parameter = torch.nn.Parameter(torch.ones(9, 4))
    accumulate(parameter, rows(drawn(1, 1)))
    parameter.grad = None
    parameter.data = parameter.data.double()
    accumulate(parameter, rows(drawn(1, 2).double()))
    assert parameter.grad is not None and parameter.grad.dtype is torch.float64  # type: ignore[unreachable]
