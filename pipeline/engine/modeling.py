"""A cross-encoder in memory and how it is run: batches in, logits out. Knows nothing of files, stages or training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from pipeline.config.learning import Precision
from pipeline.engine import block_bert, block_scoring, collation, lanes, packed
from pipeline.engine.batching import Indices
from pipeline.engine.cast_weights import with_cast_weights
from pipeline.engine.pair_template import Ints, PairTemplate
from pipeline.engine.tokens import TokenTable

Batch = dict[str, torch.Tensor]


@dataclass(slots=True)
class Reranker:
    """A cross-encoder in memory: one logit a pair, fp32 weights."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    hidden_size: int
    layers: int
    head_was_saved: bool
    packed: bool
    """Whether it runs on packed batches (no padding) or, BERT on a CPU, on blocks (little); `collate` makes them."""

    def collate(self, table: TokenTable, template: PairTemplate, first: Ints, second: Ints, width_step: int) -> Batch:
        """Tensors of pairs of a table's texts, in the form this model takes, ready to be copied to its device.

        Args:
            table: the texts' tokens.
            template: the special tokens around a pair.
            first: (pairs,) int, each pair's first text by its number in the table; pairs in order of falling length.
            second: (pairs,) int, its second text.
            width_step: where the model takes blocks, their widths are multiples of it.
        """
        if self._in_blocks():
            return collation.blocks(table, template, first, second, width_step)
        if not self.packed:
            batch = collation.pad(table, template, first, second)
        else:
            batch = collation.pack(table, template, first, second, next(self.model.parameters()).device)
        return {name: self.staged(tensor) for name, tensor in batch.items()}

    def keep_tokens(self, table: TokenTable, template: PairTemplate) -> None:
        """Keep all of a table's tokens on the GPU, if packed batches are put together there; call before `collate`."""
        device = next(self.model.parameters()).device
        if self.packed and device.type == "cuda":
            table.keep_on(device, template)

    def staged(self, tensor: torch.Tensor) -> torch.Tensor:
        """Pin the tensor, where the model is on a GPU, so that its copy to the GPU is asynchronous."""
        is_copied = next(self.model.parameters()).is_cuda and not tensor.is_cuda and tensor.numel() > 0
        return tensor.pin_memory() if is_copied else tensor

    def frozen(self, precision: Precision, shared: Indices | None = None) -> Callable[[Batch], torch.Tensor]:
        """`logits` of many batches while the weights stay as they are; the model must be in evaluation mode.

        Args:
            precision: what the matmuls compute in.
            shared: keys of the rows that every batch is `shared_rows.split` by; None: batches are whole.
        """
        if not self._in_blocks():
            assert shared is None, "only blocks are split"
            with torch.no_grad():
                return while_unchanged(self.model, precision)
        assert not self.model.training, "it leaves dropout out"
        model = block_scoring.Frozen(self.model, self._compute_dtype(precision), shared)
        return lambda batch: model(batch).float().squeeze(-1)

    def most_shared(self, precision: Precision) -> int:
        """How many rows `frozen` should share between batches to save time, see `shared_rows`; 0: none."""
        return block_scoring.most_shared(self.model.config, self._compute_dtype(precision)) if self._in_blocks() else 0

    def _compute_dtype(self, precision: Precision) -> torch.dtype:
        return torch.bfloat16 if precision is Precision.bf16 else next(self.model.parameters()).dtype

    def is_padded(self, precision: Precision) -> bool:
        """Whether a pair takes as much memory as the longest of its micro-batch, on the device the model is on now."""
        return not (self.packed and packed.attends_unpadded(self.model, self._compute_dtype(precision)))

    def lanes(self) -> int:
        """How many micro-batches it computes side by side; call on the main thread."""
        return lanes.available() if self._in_blocks() else 1

    def _in_blocks(self) -> bool:
        return self.packed and packed.runs_in_blocks(self.model)


def keep_head_in_fp32(model: nn.Module) -> None:
    """Run the last linear layer outside autocast: a bf16 logit has 8 significant bits and makes ties."""
    for name in ("classifier", "score", "logits_proj"):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            # A bound method: a copy of the model gets one bound to its own head.
            head.forward = MethodType(_forward_in_fp32, head)
            return


def _forward_in_fp32(head: nn.Module, features: torch.Tensor) -> torch.Tensor:
    with torch.autocast(features.device.type, enabled=False):
        result: torch.Tensor = type(head).forward(head, features.float())
    return result


def logits(model: nn.Module, batch: Batch, precision: Precision) -> torch.Tensor:
    """One fp32 logit a pair, shape (pairs,), under a precision; of a padded or packed batch, or one of blocks."""
    device = next(model.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision is Precision.bf16):
        padded = "attention_mask" in batch
        output: torch.Tensor = model(**batch).logits if padded else packed.logits(model, batch)
    return output.float().squeeze(-1)


def while_unchanged(model: nn.Module, precision: Precision) -> Callable[[Batch], torch.Tensor]:
    """`logits` of padded or packed batches while the weights stay as they are: where it can, it casts them once."""
    if precision is not Precision.bf16 or not packed.supports(model):
        return lambda batch: logits(model, batch, precision)
    return with_cast_weights(model, lambda swapped, batch: logits(swapped, batch, precision))


def computed_tokens(batch: Batch) -> int:
    """Tokens of a batch that linear layers compute, padding included."""
    return batch["extent"].shape[1] if "extent" in batch else batch["input_ids"].numel()


def of_step(model: nn.Module, precision: Precision) -> Callable[[Batch, int], torch.Tensor]:
    """Thread-safe `logits` of one step's batches of blocks: weights are cast once, each call takes a dropout seed."""

    def autocast() -> torch.autocast:
        bf16 = precision is Precision.bf16
        # All threads would share autocast's cache of cast weights, which are parts of an autograd graph.
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16, cache_enabled=False)

    with autocast():
        weights = block_bert.cast_weights(model)

    def step_logits(batch: Batch, seed: int) -> torch.Tensor:
        with autocast():
            return block_bert.logits(model, batch, weights, seed).float().squeeze(-1)

    return step_logits
