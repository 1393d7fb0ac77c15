"""One training step: its micro-batches, its loss and its gradient.

Knows nothing of other steps, files or logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from pipeline.config.learning import Precision
from pipeline.engine import lanes, modeling
from pipeline.engine.accumulation import accumulate
from pipeline.engine.modeling import Reranker
from pipeline.inputs.batching import TRAINING_WIDTH_STEP, split_into_micro_batches
from pipeline.inputs.pair_template import PairTemplate
from pipeline.inputs.tokens import TokenTable
from pipeline.networks.dropout import drawn_seed

LANE_TOKENS = 1024
"""Fewest tokens of a lane: with fewer, it saves less time than its own gradient of every weight costs (measured with a
BERT of 6 layers and width 384 on 2 cores)."""


@dataclass(slots=True)
class TrainingRows:
    """Rows as text numbers in a token table: `first`, `second` (rows,) int; `label` (rows,) float32 in [0, 1]."""

    table: TokenTable
    template: PairTemplate
    first: npt.NDArray[np.integer]
    second: npt.NDArray[np.integer]
    label: npt.NDArray[np.float32]


@dataclass(slots=True)
class Step:
    """One step, ready to run: micro-batches with their labels, and the rows they came from."""

    rows: npt.NDArray[np.int64]
    batches: list[tuple[dict[str, torch.Tensor], torch.Tensor]]
    tokens: int
    padded: int
    """Tokens that are computed, padding included; `tokens` counts the real ones."""
    budget: int
    """The token budget under which the step was composed, see `batching.split_into_micro_batches`."""
    lanes: int
    """How many micro-batches are computed side by side."""


def prepare(
    reranker: Reranker, data: TrainingRows, rows: npt.NDArray[np.int64], budget: int, most_lanes: int = 1, *,
    is_padded: bool = True,
) -> Step:  # fmt: skip
    """Compose a step's micro-batches: sort the pairs by length and split them under a token budget, each row once.

    Args:
        reranker: makes the batches.
        data: all training rows.
        rows: (rows of the step,) int, their indices in `data`.
        budget: tokens of a micro-batch.
        most_lanes: how many micro-batches may be computed side by side, at most what `Reranker.lanes` returns.
        is_padded: what `Reranker.is_padded` returns.
    """
    first, second, label = data.first[rows], data.second[rows], data.label[rows]
    lengths = data.table.pair_lengths(data.template, first, second)
    side_by_side = min(most_lanes, max(1, int(lengths.sum()) // LANE_TOKENS))
    batches, padded = [], 0
    for group in split_into_micro_batches(lengths, budget, side_by_side, is_padded=is_padded):
        batch = reranker.collate(data.table, data.template, first[group], second[group], TRAINING_WIDTH_STEP)
        padded += modeling.computed_tokens(batch)
        batches.append((batch, reranker.staged(torch.from_numpy(np.ascontiguousarray(label[group])))))
    return Step(rows, batches, int(lengths.sum()), padded, budget, side_by_side)


def loss_sum(logits: torch.Tensor, labels: torch.Tensor, pos_weight: float) -> torch.Tensor:
    """Return the sum over pairs of binary cross-entropy with logits, positives weighted by `pos_weight`.

    The caller divides by the batch size.
    """
    weight = torch.full((), pos_weight, dtype=torch.float32, device=logits.device)  # a copy would wait for a GPU
    return F.binary_cross_entropy_with_logits(logits.float(), labels, pos_weight=weight, reduction="sum")


def backward(
    model: torch.nn.Module, step: Step, *, pos_weight: float, precision: Precision, accelerator: Accelerator
) -> torch.Tensor:
    """Accumulate the gradient of a step's loss and return the loss (0-d, on the device, detached)."""
    if "shapes" in step.batches[0][0]:
        return _backward_in_lanes(model, step, pos_weight, precision)
    dtype = torch.float64 if accelerator.device.type == "cpu" else torch.float32
    total = torch.zeros((), dtype=dtype, device=accelerator.device)
    logits_of = modeling.while_unchanged(model, precision)
    for batch, labels in step.batches:
        on_device = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        logits = logits_of(on_device)
        loss = loss_sum(logits, labels.to(accelerator.device, non_blocking=True), pos_weight) / len(step.rows)
        accelerator.backward(loss)
        total += loss.detach()
    return total


def _backward_in_lanes(model: torch.nn.Module, step: Step, pos_weight: float, precision: Precision) -> torch.Tensor:
    """Do `backward` for batches of blocks: gradients are added in the batches' order, whichever batch ends first."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logits = modeling.of_step(model, precision)

    def gradients(seeded_batch: tuple[dict[str, torch.Tensor], torch.Tensor, int]) -> tuple[torch.Tensor, list[Any]]:
        batch, labels, seed = seeded_batch
        loss = loss_sum(logits(batch, seed), labels, pos_weight) / len(step.rows)
        return loss.detach(), list(torch.autograd.grad(loss, parameters, allow_unused=True))

    total = torch.zeros((), dtype=torch.float64)
    seeded = [(batch, labels, drawn_seed()) for batch, labels in step.batches]
    for loss, of_batch in lanes.in_order(gradients, seeded, step.lanes):
        total += loss
        for parameter, gradient in zip(parameters, of_batch, strict=True):
            accumulate(parameter, gradient)
    return total
