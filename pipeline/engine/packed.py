"""Cross-encoders without padding: linear layers, norms and activations see real tokens only, attention its own pair.

BERT on a CPU has a code path of its own, with little padding: `block_bert`, or `block_scoring` where it is not trained.

The weights are the model's own and the result is its logits to rounding (tests/test_packed.py); the saved folder knows
nothing of this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline.engine import block_bert, packed_bert, packed_modernbert
from pipeline.engine.packed_attention import has_unpadded
from pipeline.engine.packed_rows import Rows

KINDS: dict[str, Any] = {
    "transformers.models.bert.modeling_bert.BertForSequenceClassification": packed_bert,
    "transformers.models.modernbert.modeling_modernbert.ModernBertForSequenceClassification": packed_modernbert,
}
"""Model class → the module that computes it. A class of the same name from elsewhere, or a subclass, may compute
something else."""


def runs_in_blocks(model: nn.Module) -> bool:
    """Whether it runs faster on the batches of `collation.blocks`, and `logits` takes them: BERT on a CPU."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    return on_cpu and KINDS.get(_name(model)) is packed_bert and block_bert.supports(model.config)


def supports(model: nn.Module) -> bool:
    """Whether `logits` computes this model."""
    kind = KINDS.get(_name(model))
    return kind is not None and bool(kind.supports(model.config))


def attends_unpadded(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether attention of a model that `supports` accepts has no padding either, computed in this dtype."""
    config: Any = model.config
    device = next(model.parameters()).device
    return device.type == "cuda" and has_unpadded(device, dtype, config.hidden_size // config.num_attention_heads)


def logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits (pairs, labels) of a packed batch.

    Args:
        model: a model `supports` accepts, in training or evaluation mode.
        batch: made by `collation.pack`, or a batch of blocks, where the model runs in them.
    """
    if "shapes" in batch:
        return block_bert.logits(model, batch)
    result: torch.Tensor = KINDS[_name(model)].logits(model, Rows.of(batch))
    return result


def _name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
