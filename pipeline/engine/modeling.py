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
    """Whether it runs on packed batches (no padding) or, on a CPU, in blocks (little); `collate` makes them."""

    def collate(self, table: TokenTable, template: PairTemplate, first: Ints, second: Ints, width_step: int) -> Batch:
        """Tensors of pairs of a table's texts, longest pair first, in the form this model takes, `staged`.

        Blocks, where it takes them, are multiples of `width_step` wide.
        """
        if self._in_blocks():
            return collation.blocks(table, template, first, second, width_step)
        if not self.packed:
            batch = collation.pad(table, template, first, second)
        else:
            batch = collation.pack(table, template, first, second, next(self.model.parameters()).device)
        return {name: self.staged(tensor) for name, tensor in batch.items()}

    def keep_tokens(self, table: TokenTable, template: PairTemplate) -> None:
        """Have all of a table's tokens where batches of it are put together, if that is a GPU; to be asked before."""
        device = next(self.model.parameters()).device
        if self.packed and device.type == "cuda":
            table.keep_on(device, template)

    def staged(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in memory that the GPU reads by itself, where the model is on one: other copies may wait there."""
        fetched = next(self.model.parameters()).is_cuda and not tensor.is_cuda and tensor.numel() > 0
        return tensor.pin_memory() if fetched else tensor

    def frozen(self, precision: Precision, shared: Indices | None = None) -> Callable[[Batch], torch.Tensor]:
        """`logits` of many batches while the weights stay as they are; the model must be in evaluation mode.

        `shared`: keys of the rows that all of them are `shared_rows.split` by.
        """
        if not self._in_blocks():
            assert shared is None, "only blocks are split"
            return lambda batch: logits(self.model, batch, precision)
        assert not self.model.training, "it leaves dropout out"
        model = block_scoring.Frozen(self.model, self._products_in(precision), shared)
        return lambda batch: model(batch).float().squeeze(-1)

    def most_shared(self, precision: Precision) -> int:
        """Rows that it pays `frozen` to share between batches, see `shared_rows`; 0: none."""
        return block_scoring.most_shared(self.model.config, self._products_in(precision)) if self._in_blocks() else 0

    def _products_in(self, precision: Precision) -> torch.dtype:
        return torch.bfloat16 if precision is Precision.bf16 else next(self.model.parameters()).dtype

    def pads(self, precision: Precision) -> bool:
        """Whether a pair takes as much memory as the longest of its micro-batch; to be asked on the model's device."""
        return not (self.packed and packed.attends_unpadded(self.model, self._products_in(precision)))

    def lanes(self) -> int:
        """Micro-batches it computes side by side; to be asked on the main thread."""
        return lanes.available() if self._in_blocks() else 1

    def _in_blocks(self) -> bool:
        return self.packed and packed.runs_in_blocks(self.model)


def keep_head_in_fp32(model: nn.Module) -> None:
    """Run the last linear layer outside autocast: a bf16 logit has 8 significant bits and makes ties."""
    for name in ("classifier", "score", "logits_proj"):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            # A bound method: a copy of the model gets one of its own head.
            head.forward = MethodType(_forward_in_fp32, head)
            return


def _forward_in_fp32(head: nn.Module, features: torch.Tensor) -> torch.Tensor:
    with torch.autocast(features.device.type, enabled=False):
        result: torch.Tensor = type(head).forward(head, features.float())
    return result


def logits(model: nn.Module, batch: Batch, precision: Precision) -> torch.Tensor:
    """One fp32 logit a pair, shape (pairs,), under the declared precision; of a padded or a packed batch."""
    device = next(model.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision is Precision.bf16):
        padded = "attention_mask" in batch
        found: torch.Tensor = model(**batch).logits if padded else packed.logits(model, batch)
    return found.float().squeeze(-1)


def computed_tokens(batch: Batch) -> int:
    """Tokens that linear layers see of a batch, pads included."""
    return batch["extent"].shape[1] if "extent" in batch else batch["input_ids"].numel()


def of_step(model: nn.Module, precision: Precision) -> Callable[[Batch, int], torch.Tensor]:
    """`logits` of one step's batches of blocks, on any thread: weights are cast once, a number seeds each dropout."""

    def autocast() -> torch.autocast:
        bf16 = precision is Precision.bf16
        # Its cache of cast weights, parts of a graph, would be shared by all threads.
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16, cache_enabled=False)

    with autocast():
        weights = block_bert.cast_weights(model)

    def found(batch: Batch, seed: int) -> torch.Tensor:
        with autocast():
            return block_bert.logits(model, batch, weights, seed).float().squeeze(-1)

    return found
