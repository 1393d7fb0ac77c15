"""A BERT on a CPU with fixed weights: matrices are packed once, and nothing is kept for a gradient.

Pairs form blocks as in `block_bert`, hardly wider than their longest pair; GELU is applied inside the matmul.
`Frozen` gives a cross-encoder's logits for pairs, `FrozenEncoder` the last layer's output of a bi-encoder for texts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput

from pipeline.core.processor import bf16_unit
from pipeline.inputs.batching import SCORING_WIDTH_STEP, Blocks, Indices, pairs_step
from pipeline.networks import block_bert, block_embeddings, block_first, shared_rows
from pipeline.networks.block_attention import Block, blocks_of
from pipeline.networks.block_linear import FirstTokenLinears, Linear, linears_of
from pipeline.networks.shared_rows import LookedUp, Lookup

MOST_WEIGHTS = 4_000_000
"""Most attention weights of a block for which separate matmuls take less time: more do not fit into the cache."""

SHARED_BYTES = 2**25
"""Bytes for rows that are looked up, held once and again in each lane. With half or twice as many a bert-tiny takes 1
to 2 % longer."""


class Frozen:
    """One model's logits for batches made by `collation.blocks`. When its weights change, make a new instance."""

    def __init__(self, model: Any, dtype: torch.dtype, shared: Indices | None = None) -> None:
        """Pack the model's current weights.

        Args:
            model: a BertForSequenceClassification that `block_bert.supports` accepts, in evaluation mode.
            dtype: of its layers' matmuls; sums, norms and the head stay in the weights' dtype.
            shared: keys of the shared rows with which `shared_rows.split` split every batch; None: batches are whole.
        """
        self._bert, self._head, self._dtype = model.bert, model.classifier, dtype
        self._layers = _Layers(model.bert, dtype, first_only=True)
        with torch.inference_mode():
            self._pool = Linear([model.bert.pooler.dense], dtype)
            heads = model.config.num_attention_heads
            self._lookup = None if shared is None else Lookup(*self._embedded(shared_rows.rows(shared)), heads)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits (pairs, labels)."""
        if self._lookup is None:
            x, qkv = block_embeddings.embed(self._bert.embeddings, batch, None), None
        else:
            x, qkv = self._lookup(*self._embedded(batch), batch["place"])
        x = self._layers(x, blocks_of(batch), batch["first_tokens"], qkv)
        pooled = self._bert.pooler.activation(self._pool(x.to(self._dtype)))
        logits: torch.Tensor = self._head(pooled.to(self._head.weight.dtype))
        return logits[: len(batch["lengths"])]

    def _embedded(self, rows: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings of rows, (rows, width), and the first layer's `_Layers.qkv` of them."""
        x = block_embeddings.embed(self._bert.embeddings, rows, None)
        return x, self._layers.qkv(x)


def most_shared(config: Any, dtype: torch.dtype) -> int:
    """Return how many rows are worth looking up in a model of this configuration; 0: none."""
    # With AMX a matmul takes no longer than looking its result up (estimated, not measured). The only layer of a
    # one-layer model computes no keys or values, so there is nothing to look up.
    if config.num_hidden_layers == 1 or (dtype is torch.bfloat16 and bf16_unit() == "AMX"):
        return 0
    return int(SHARED_BYTES // (config.hidden_size * (4 + 3 * dtype.itemsize)))


class FrozenEncoder:
    """One BertModel's `forward` for padded texts, without a gradient. When its weights change, make a new instance."""

    def __init__(self, bert: Any, dtype: torch.dtype) -> None:
        """Pack the model's current weights.

        Args:
            bert: a BertModel that `encodes` accepts, in evaluation mode; its encoder's matrices are not used again.
            dtype: of its layers' matmuls; sums and norms stay in the weights' dtype.
        """
        assert not bert.training, "it leaves dropout out"
        self._embeddings = bert.embeddings
        self._layers = _Layers(bert, dtype, first_only=False)

    @torch.inference_mode()
    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None, *, return_dict: bool = True,
    ) -> BaseModelOutput:  # fmt: skip
        """Return the last layer's output for `input_ids` (texts, width), zeros where `attention_mask` is zero."""
        assert return_dict
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        lengths, order = mask.sum(1).sort(descending=True, stable=True)
        widths = lengths.clamp(min=1)  # a text may have no token at all
        laid = Blocks.of(widths.numpy(), SCORING_WIDTH_STEP)
        # One entry per token, text after text: `text` numbers texts by decreasing length, `column` is as in input_ids.
        text, column = mask[order].nonzero(as_tuple=True)
        place = torch.from_numpy(laid.starts)[text] + torch.arange(len(text)) - (lengths.cumsum(0) - lengths)[text]
        source = (order[text], column)
        ids, types, positions = torch.zeros(3, laid.rows, dtype=torch.long)
        ids[place], positions[place] = input_ids[source], column
        if token_type_ids is not None:
            types[place] = token_type_ids[source]
        batch = {"input_ids": ids, "token_type_ids": types, "position_ids": positions}
        x = block_embeddings.embed(self._embeddings, batch, None)
        x = self._layers(x, blocks_of({"lengths": widths, "shapes": torch.tensor(laid.shapes)}), None)
        hidden_states = x.new_zeros(*input_ids.shape, x.shape[1])
        hidden_states[source] = x[place]
        return BaseModelOutput(last_hidden_state=hidden_states)


def encodes(model: Any) -> bool:
    """Return whether `FrozenEncoder` computes this model: a plain fp32 BertModel on a CPU, without extra outputs."""
    if f"{type(model).__module__}.{type(model).__qualname__}" != "transformers.models.bert.modeling_bert.BertModel":
        return False
    config = model.config
    returns_more = config.output_hidden_states or config.output_attentions
    is_fp32 = all(parameter.dtype is torch.float32 for parameter in model.parameters())
    if returns_more or not is_fp32 or model.device.type != "cpu" or not block_bert.supports(config):
        return False
    # An adapter or a quantised layer takes a linear layer's place, but does not multiply by its `weight`.
    with torch.device("meta"):
        plain = type(model)(copy.deepcopy(config))
    return _module_classes(model) == _module_classes(plain)


def _module_classes(model: Any) -> list[dict[str, type]]:
    """Return the classes of the modules that `FrozenEncoder` reads, by name."""
    parts = (model.embeddings, model.encoder)
    return [{name: type(module) for name, module in part.named_modules()} for part in parts]


class _Layers:
    """A BERT's encoder layers, one after the other."""

    def __init__(self, bert: Any, dtype: torch.dtype, *, first_only: bool) -> None:
        self._dtype, self._heads = dtype, bert.config.num_attention_heads
        # In bf16 without AMX torch's fused kernel takes up to twice as long as separate matmuls and a softmax.
        self._fused_is_slow = dtype is torch.bfloat16 and bf16_unit() == "AVX512_BF16"
        layers = bert.encoder.layer
        self._norms = [(layer.attention.output.LayerNorm, layer.output.LayerNorm) for layer in layers]
        with torch.inference_mode():
            self._linears = linears_of(layers, dtype, first_only=first_only)

    def qkv(self, x: torch.Tensor) -> torch.Tensor:
        """Return the first (and not last) layer's queries, keys and values, (rows, 3 * width), for x (rows, width)."""
        linear = self._linears[0].qkv
        assert isinstance(linear, Linear)
        return linear(x.to(self._dtype))

    def __call__(
        self, x: torch.Tensor, blocks: list[Block], first_tokens: torch.Tensor | None, known: LookedUp | None = None
    ) -> torch.Tensor:
        """Return rows of the last layer's output: of all tokens or, with `first_only`, those at `first_tokens`.

        `known`: the first layer's queries, keys and values; None: they are computed as in the other layers.
        """
        for layer, norms in zip(self._linears, self._norms, strict=True):
            if isinstance(layer.qkv, FirstTokenLinears):
                first = x[first_tokens]
                query = layer.qkv.query(first.to(self._dtype)).to(x.dtype)
                context = block_first.attend_frozen(query, x, layer.qkv, blocks).to(self._dtype)
                x = first
            else:
                context = self._attend(known or _ComputedQKV(layer.qkv(x.to(self._dtype)), self._heads), blocks, x)
                known = None
            x = _add_norm(x, layer.out(context), norms[0])
            x = _add_norm(x, layer.down(layer.up(x.to(self._dtype), gelu=True)), norms[1])
        return x

    def _attend(self, qkv: _ComputedQKV | LookedUp, blocks: list[Block], x: torch.Tensor) -> torch.Tensor:
        """Compute `block_attention.attend` without a gradient, for as many rows as x has."""
        context = torch.empty(x.shape, dtype=self._dtype)
        context[blocks[-1].rows.stop :] = 0.0
        for block in blocks:
            if self.matmuls_pay(block):
                # oneDNN compiles a kernel for every number of pairs.
                step = pairs_step(block.width)
                output = _matmul_attention(qkv.of(block, -(-block.pairs // step) * step), block)
            else:
                output = _fused_attention(qkv.of(block, block.pairs), block)
            rows = context[block.rows].view(block.pairs, block.width, self._heads, -1)
            rows.copy_(output[:, : block.pairs].permute(1, 2, 0, 3))
        return context

    def matmuls_pay(self, block: Block) -> bool:
        """Return whether attention as two matmuls takes less time than the fused kernel."""
        enough = block.pairs >= pairs_step(block.width)  # fewer would be padded to that many
        return self._fused_is_slow and enough and block.pairs * self._heads * block.width**2 <= MOST_WEIGHTS


@dataclass(slots=True)
class _ComputedQKV:
    """Queries, keys and values of a micro-batch's rows side by side, (rows, 3 * heads * size)."""

    qkv: torch.Tensor
    heads: int

    def of(self, block: Block, pairs: int) -> torch.Tensor:
        """Return a block's rows as (3, heads, pairs, width, size), with zeros for pairs beyond the block's own."""
        shape = (block.pairs, block.width, 3, self.heads, -1)
        qkv = self.qkv[block.rows].view(shape).permute(2, 3, 0, 1, 4)
        return F.pad(qkv, (0, 0, 0, 0, 0, pairs - block.pairs)) if pairs > block.pairs else qkv


def _fused_attention(qkv: torch.Tensor, block: Block) -> torch.Tensor:
    """Return the context (heads, pairs, width, size) of a block's `qkv` (3, heads, pairs, width, size).

    Computed by torch's fused kernel, which takes views of the rows as they are.
    """
    query, key, value = qkv.transpose(1, 2)
    mask = None if block.attention_mask is None else block.attention_mask.to(qkv.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(0, 1)


def _matmul_attention(qkv: torch.Tensor, block: Block) -> torch.Tensor:
    """Compute `_fused_attention` by two matmuls and an fp32 softmax; `qkv` may have more pairs than the block."""
    _, heads, pairs, width, size = qkv.shape
    query, key, value = qkv.reshape(3, heads * pairs, width, size)
    scores = torch.bmm(query, key.transpose(1, 2)).float().mul_(size**-0.5)
    if block.attention_mask is not None:
        scores.view(heads, pairs, width, width)[:, : block.pairs].add_(block.attention_mask[:, 0])
    context = torch.bmm(torch.softmax(scores, -1).to(qkv.dtype), value)
    return context.view(heads, pairs, width, size)


def _add_norm(x: torch.Tensor, y: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    """Return the LayerNorm of x plus y; x is overwritten."""
    return F.layer_norm(x.add_(y), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
