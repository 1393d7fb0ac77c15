"""Weights of linear layers cast to bf16 once and all together; autocast casts each separately, for each batch.

Each cast launches a kernel, and so does the cast of its gradient: for ModernBERT-large a sixth of a step's kernels. In
return the gradients in bf16, 2 bytes per weight, live until the backward pass ends, when activations are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def with_cast_weights(model: nn.Module, run: Callable[[nn.Module, Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
    """Return `run(model, batch)` as a function of the batch, with the linear layers' weights and biases in bf16.

    `run` must compute under autocast to bf16; its results stay the same to the bit. So do gradients, which reach the
    model's own parameters in fp32, if each batch has its own backward pass: within one pass they are added in bf16.
    Layers whose `forward` was replaced are left as they are. The weights are cast now: later changes are not seen.
    """
    places = [
        (module, name, parameter) for module in model.modules()
        if isinstance(module, nn.Linear) and "forward" not in vars(module)
        for name, parameter in module.named_parameters(recurse=False)
    ]  # fmt: skip
    cast = _Cast.apply(*(parameter for *_, parameter in places))  # type: ignore[no-untyped-call]

    def run_with_cast(batch: Any) -> torch.Tensor:
        # `torch.func.functional_call` does the same, but its bookkeeping takes 2.5 ms a step of ModernBERT-large.
        for (module, name, _), tensor in zip(places, cast, strict=True):
            module._parameters[name] = tensor
        try:
            return run(model, batch)
        finally:
            for module, name, parameter in places:
                module._parameters[name] = parameter

    return run_with_cast


class _Cast(torch.autograd.Function):
    """A cast of tensors to bf16, and of their gradients to the tensors' own dtypes."""

    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return tuple(_copied(tensors, [torch.bfloat16] * len(tensors)))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        present = [(grad, dtype) for grad, dtype in zip(grads, ctx.dtypes, strict=True) if grad is not None]
        copies = iter(_copied([grad for grad, _ in present], [dtype for _, dtype in present]))
        return tuple(None if grad is None else next(copies) for grad in grads)


def _copied(tensors: Any, dtypes: list[torch.dtype]) -> list[torch.Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies
