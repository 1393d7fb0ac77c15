"""A cross-encoder in memory, which turns batches into logits. Knows nothing of files, stages or the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from pipeline.config.learning import Precision
from pipeline.engine import lanes
from pipeline.inputs import collation
from pipeline.inputs.batching import Indices
from pipeline.inputs.pair_template import Ints, PairTemplate
from pipeline.inputs.tokens import TokenTable
from pipeline.networks import block_bert, block_scoring, packed
from pipeline.networks.cast_weights import with_cast_weights

Batch = dict[str, torch.Tensor]


@dataclass(slots=True)
class Reranker:
    """A cross-encoder in memory, with fp32 weights and one logit per pair."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    hidden_size: int
    layers: int
    head_was_saved: bool
    packed: bool
    """Whether `collate` makes packed batches (no padding) or, for BERT on a CPU, blocks (little padding)."""

    def collate(self, table: TokenTable, template: PairTemplate, first: Ints, second: Ints, width_step: int) -> Batch:
        """Return the tensors of pairs of a table's texts, in the form this model takes, ready to copy to its device.

        Args:
            table: the texts' tokens.
            template: the special tokens around a pair.
            first: (pairs,) int, the number in the table of each pair's first text; pairs in descending order of length.
            second: (pairs,) int, the number in the table of each pair's second text.
            width_step: block widths are multiples of it, where the model takes blocks.
        """
        if self._in_blocks():
            return collation.blocks(table, template, first, second, width_step)
        if not self.packed:
            batch = collation.pad(table, template, first, second)
        else:
            batch = collation.pack(table, template, first, second, next(self.model.parameters()).device)
        return {name: self.staged(tensor) for name, tensor in batch.items()}

    def keep_tokens(self, table: TokenTable, template: PairTemplate) -> None:
        """Keep all of a table's tokens on the GPU, if packed batches are composed there; call before `collate`."""
        device = next(self.model.parameters()).device
        if self.packed and device.type == "cuda":
            table.keep_on(device, template)

    def staged(self, tensor: torch.Tensor) -> torch.Tensor:
        """Pin the tensor, where the model is on a GPU, so that its copy to the GPU is asynchronous."""
        is_copied = next(self.model.parameters()).is_cuda and not tensor.is_cuda and tensor.numel() > 0
        return tensor.pin_memory() if is_copied else tensor

    def frozen(self, precision: Precision, shared: Indices | None = None) -> Callable[[Batch], torch.Tensor]:
        """Return a function from batches to logits, for unchanged weights; the model must be in evaluation mode.

        Args:
            precision: of the matmuls.
            shared: keys of the shared rows with which `shared_rows.split` split every batch; None: batches are whole.
        """
        if not self._in_blocks():
            assert shared is None, "only blocks are split"
            with torch.no_grad():
                return while_unchanged(self.model, precision)
        assert not self.model.training, "it leaves dropout out"
        model = block_scoring.Frozen(self.model, self._compute_dtype(precision), shared)
        return lambda batch: model(batch).float().squeeze(-1)

    def most_shared(self, precision: Precision) -> int:
        """Return how many rows `frozen` should share between batches to save time, see `shared_rows`; 0: none."""
        return block_scoring.most_shared(self.model.config, self._compute_dtype(precision)) if self._in_blocks() else 0

    def _compute_dtype(self, precision: Precision) -> torch.dtype:
        return torch.bfloat16 if precision is Precision.bf16 else next(self.model.parameters()).dtype

    def is_padded(self, precision: Precision) -> bool:
        """Return whether a pair takes as much memory as its micro-batch's longest, on the model's current device."""
        return not (self.packed and packed.attends_unpadded(self.model, self._compute_dtype(precision)))

    def lanes(self) -> int:
        """Return how many micro-batches the model computes side by side; call on the main thread."""
        return lanes.available() if self._in_blocks() else 1

    def _in_blocks(self) -> bool:
        return self.packed and packed.runs_in_blocks(self.model)


def keep_head_in_fp32(model: nn.Module) -> None:
    """Run the last linear layer outside autocast: bf16 logits have only 8 significant bits, so scores would tie."""
    for name in ("classifier", "score", "logits_proj"):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            # A bound method, because a copy of the model gets a method bound to its own head.
            head.forward = MethodType(_forward_in_fp32, head)
            return


def _forward_in_fp32(head: nn.Module, features: torch.Tensor) -> torch.Tensor:
    with torch.autocast(features.device.type, enabled=False):
        result: torch.Tensor = type(head).forward(head, features.float())
    return result


def logits(model: nn.Module, batch: Batch, precision: Precision) -> torch.Tensor:
    """Return one fp32 logit per pair, shape (pairs,), of a padded batch, a packed batch or a batch of blocks."""
    device = next(model.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision is Precision.bf16):
        padded = "attention_mask" in batch
        output: torch.Tensor = model(**batch).logits if padded else packed.logits(model, batch)
    return output.float().squeeze(-1)


def while_unchanged(model: nn.Module, precision: Precision) -> Callable[[Batch], torch.Tensor]:
    """Return a function from padded or packed batches to logits, for unchanged weights: if possible, cast them once."""
    if precision is not Precision.bf16 or not packed.supports(model):
        return lambda batch: logits(model, batch, precision)
    return with_cast_weights(model, lambda swapped, batch: logits(swapped, batch, precision))


def computed_tokens(batch: Batch) -> int:
    """Return the number of tokens that linear layers compute for a batch, padding included."""
    return batch["extent"].shape[1] if "extent" in batch else batch["input_ids"].numel()


def of_step(model: nn.Module, precision: Precision) -> Callable[[Batch, int], torch.Tensor]:
    """Return a thread-safe function from a step's batches of blocks and dropout seeds to logits; cast weights once."""

    def autocast() -> torch.autocast:
        bf16 = precision is Precision.bf16
        # No cache: all threads would share its cast weights, which belong to an autograd graph.
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16, cache_enabled=False)

    with autocast():
        weights = block_bert.cast_weights(model)

    def step_logits(batch: Batch, seed: int) -> torch.Tensor:
        with autocast():
            return block_bert.logits(model, batch, weights, seed).float().squeeze(-1)

    return step_logits
