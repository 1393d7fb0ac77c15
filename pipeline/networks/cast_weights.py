"""Weights of linear layers cast to bf16 once and all together; autocast casts each separately, for each batch.

Each cast launches a kernel, and so does the cast of its gradient: for ModernBERT-large a sixth of a step's kernels. In
return the gradients in bf16, 2 bytes per weight, live until the backward pass ends, when activations are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


def with_cast_weights(model: nn.Module, run: Callable[[nn.Module, Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
    """Return `run(model, batch)` as a function of the batch, with the linear layers' weights and biases in bf16.

    `run` must compute under autocast to bf16; its results stay the same to the bit. So do gradients, which reach the
    model's own parameters in fp32, if each batch has its own backward pass: within one pass they are added in bf16.
    Layers whose `forward` was replaced are left as they are. The weights are cast now: later changes are not seen.
    """
    holder = _Held(model, run)
    names = [
        f"{path}.{name}" for path, module in holder.named_modules()
        if isinstance(module, nn.Linear) and "forward" not in vars(module)
        for name, _ in module.named_parameters()
    ]  # fmt: skip
    cast = dict(zip(names, _Cast.apply(*map(holder.get_parameter, names)), strict=True))  # type: ignore[no-untyped-call]
    return lambda batch: functional_call(holder, cast, (batch,), tie_weights=False)


class _Held(nn.Module):
    """A model with `run` as its `forward`, because `functional_call` takes a module."""

    def __init__(self, model: nn.Module, run: Callable[[nn.Module, Any], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, batch: Any) -> torch.Tensor:
        return self.run(self.model, batch)


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
