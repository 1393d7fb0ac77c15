"""Cross-encoders without padding.

Linear layers, norms and activations process real tokens only, and each token attends to its own pair only. BERT on a
CPU has a code path of its own, with little padding: `block_bert` in training, `block_scoring` in scoring.

The weights are the model's own and the logits equal the model's up to rounding (tests/test_packed.py). Saved models do
not depend on this module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline.networks import block_bert, packed_bert, packed_modernbert
from pipeline.networks.packed_attention import has_unpadded
from pipeline.networks.packed_rows import Rows

KINDS: dict[str, Any] = {
    "transformers.models.bert.modeling_bert.BertForSequenceClassification": packed_bert,
    "transformers.models.modernbert.modeling_modernbert.ModernBertForSequenceClassification": packed_modernbert,
}
"""Full name of a model class → the module that computes its logits. A class of the same name from elsewhere, or a
subclass, may compute something else."""


def runs_in_blocks(model: nn.Module) -> bool:
    """Return whether the model, BERT on a CPU, runs faster on batches from `collation.blocks`, which `logits` takes."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    return on_cpu and KINDS.get(_name(model)) is packed_bert and block_bert.supports(model.config)


def supports(model: nn.Module) -> bool:
    """Return whether `logits` can compute this model."""
    kind = KINDS.get(_name(model))
    return kind is not None and bool(kind.supports(model.config))


def attends_unpadded(model: nn.Module, dtype: torch.dtype) -> bool:
    """Return whether attention in this dtype has no padding either, for a model that `supports` accepts."""
    config: Any = model.config
    device = next(model.parameters()).device
    return device.type == "cuda" and has_unpadded(device, dtype, config.hidden_size // config.num_attention_heads)


def logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits, (pairs, labels), of a packed batch.

    Args:
        model: a model that `supports` accepts, in training or evaluation mode.
        batch: made by `collation.pack`, or by `collation.blocks` if the model runs in blocks.
    """
    if "shapes" in batch:
        return block_bert.logits(model, batch)
    result: torch.Tensor = KINDS[_name(model)].logits(model, Rows.of(batch))
    return result


def _name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
