"""Training steps that are wrong on purpose: a test that they pass tests nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from pipeline.config.learning import Precision
from pipeline.engine import modeling, steps, update
from pipeline.inputs.batching import Plan


def _mean(
    model: torch.nn.Module, step: steps.Step, *, pos_weight: float, precision: Precision, accelerator: Accelerator
) -> torch.Tensor:
    """Accumulate gradients without regard to micro-batch sizes: the loss is the mean of the micro-batches' means."""
    total = torch.zeros((), dtype=torch.float64)
    for batch, labels in step.batches:
        logits = modeling.logits(model, batch, precision)
        loss = steps.loss_sum(logits, labels, pos_weight) / len(labels) / len(step.batches)
        accelerator.backward(loss)
        total += loss.detach()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.to_dense()
    return total


def _without_pos_weight(logits: torch.Tensor, labels: torch.Tensor, pos_weight: float) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")


def _mean_per_micro_batch(patch: pytest.MonkeyPatch) -> None:
    for module in (steps, update):
        patch.setattr(module, "backward", _mean)


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "mean per micro-batch": _mean_per_micro_batch,
    "pos_weight missing": lambda patch: patch.setattr(steps, "loss_sum", _without_pos_weight),
    "last batch dropped": lambda patch: patch.setattr(
        Plan, "steps_per_epoch", property(lambda plan: plan.rows // plan.batch_size)
    ),
}
"""Name → patch that makes a step wrong; the tests of the losses and gradients it changes must fail under it."""
