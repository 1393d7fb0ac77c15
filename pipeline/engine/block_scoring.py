"""A BERT cross-encoder on a CPU whose weights stand still: matrices packed once, nothing kept for a gradient.

Blocks of pairs as in `block_bert`, none wider than its longest. Attention is torch's fused one: it takes views of the
rows as they are and, without AMX, compiles nothing for a shape; the activation is applied by the product itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from pipeline.engine import block_embeddings
from pipeline.engine.block_attention import Block, blocks_of, rows_used
from pipeline.engine.block_linear import Linear, products_of


class Frozen:
    """Logits of one model for batches made by `TokenTable.blocks`, until its weights change: then make another."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """Take the weights as they are.

        Args:
            model: a BertForSequenceClassification that `block_bert.supports`, in evaluation mode.
            dtype: in which its layers multiply; sums, norms and the head stay in the weights' own type.
        """
        self._bert, self._head, self._dtype = model.bert, model.classifier, dtype
        self._heads = model.config.num_attention_heads
        layers = model.bert.encoder.layer
        self._norms = [(layer.attention.output.LayerNorm, layer.output.LayerNorm) for layer in layers]
        with torch.inference_mode():
            self._layers = products_of(layers, dtype)
            self._pool = Linear([model.bert.pooler.dense], dtype)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits (pairs, labels)."""
        blocks, firsts = blocks_of(batch), batch["firsts"]
        masks = [None if block.hidden is None else block.hidden.to(self._dtype) for block in blocks]
        x = block_embeddings.embed(self._bert.embeddings, batch, None)
        for layer, norms in zip(self._layers, self._norms, strict=True):
            narrow = x.to(self._dtype)
            if layer.query is None:
                query, key_value = layer.into(narrow).tensor_split([x.shape[1]], dim=1)
            else:
                key_value, query, x = layer.into(narrow), layer.query(narrow[firsts]), x[firsts]
            context = self._attend(query, key_value, blocks, masks, first_only=layer.query is not None)
            x = _add_norm(x, layer.out(context), norms[0])
            x = _add_norm(x, layer.down(layer.up(x.to(self._dtype), gelu=True)), norms[1])
        pooled = self._bert.pooler.activation(self._pool(x.to(self._dtype)))
        found: torch.Tensor = self._head(pooled.to(self._head.weight.dtype))
        return found[: len(batch["lengths"])]

    def _attend(
        self, query: torch.Tensor, key_value: torch.Tensor, blocks: list[Block],
        masks: list[torch.Tensor | None], *, first_only: bool,
    ) -> torch.Tensor:  # fmt: skip
        """`block_attention.attend` without a gradient."""
        heads, size = self._heads, query.shape[1] // self._heads
        context = torch.empty(query.shape, dtype=query.dtype)
        context[rows_used(blocks, first_only) :] = 0.0
        for block, mask in zip(blocks, masks, strict=True):
            asking = block.numbers if first_only else block.rows
            q = query[asking].view(block.pairs, -1, heads, size).transpose(1, 2)
            k, v = key_value[block.rows].view(block.pairs, block.width, 2, heads, size).permute(2, 0, 3, 1, 4)
            found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            context[asking].view(block.pairs, -1, heads, size).copy_(found.transpose(1, 2))
        return context


def _add_norm(x: torch.Tensor, y: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    """LayerNorm of x plus y; x is overwritten."""
    return F.layer_norm(x.add_(y), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
