"""A BERT on a CPU whose weights stand still: matrices packed once, nothing kept for a gradient.

Blocks of pairs as in `block_bert`, hardly wider than their longest; the activation is applied by the product itself.
Of a cross-encoder's pairs it makes logits, of a bi-encoder's texts its last layer's output.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput

from pipeline.core.reproducibility import bf16_unit
from pipeline.engine import block_bert, block_embeddings, block_first
from pipeline.engine.batching import SCORING_WIDTH_STEP, Blocks, pairs_step
from pipeline.engine.block_attention import Block, blocks_of
from pipeline.engine.block_linear import FirstProducts, Linear, products_of

MOST_WEIGHTS = 4_000_000
"""A block's attention weights up to which products take less time: passes over more of them leave the cache."""


class Frozen:
    """Logits of one model for batches made by `TokenTable.blocks`, until its weights change: then make another."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """Take the weights as they are.

        Args:
            model: a BertForSequenceClassification that `block_bert.supports`, in evaluation mode.
            dtype: in which its layers multiply; sums, norms and the head stay in the weights' own type.
        """
        self._bert, self._head, self._dtype = model.bert, model.classifier, dtype
        self._layers = _Layers(model.bert, dtype, first_alone=True)
        with torch.inference_mode():
            self._pool = Linear([model.bert.pooler.dense], dtype)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits (pairs, labels)."""
        x = block_embeddings.embed(self._bert.embeddings, batch, None)
        x = self._layers(x, blocks_of(batch), batch["firsts"])
        pooled = self._bert.pooler.activation(self._pool(x.to(self._dtype)))
        found: torch.Tensor = self._head(pooled.to(self._head.weight.dtype))
        return found[: len(batch["lengths"])]


class FrozenEncoder:
    """`forward` of one BertModel for padded texts, without a gradient, until its weights change."""

    def __init__(self, bert: Any, dtype: torch.dtype) -> None:
        """Take the weights as they are.

        Args:
            bert: a BertModel that `encodes`, in evaluation mode; its encoder's matrices are not needed again.
            dtype: in which its layers multiply; sums and norms stay in the weights' own type.
        """
        assert not bert.training, "it leaves dropout out"
        self._embeddings = bert.embeddings
        self._layers = _Layers(bert, dtype, first_alone=False)

    @torch.inference_mode()
    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None, *, return_dict: bool = True,
    ) -> BaseModelOutput:  # fmt: skip
        """The last layer's output for `input_ids` (texts, width), zeros where `attention_mask` has them."""
        assert return_dict
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        lengths, order = mask.sum(1).sort(descending=True, stable=True)
        widths = lengths.clamp(min=1)  # a text may have no token at all
        laid = Blocks.of(widths.numpy(), SCORING_WIDTH_STEP)
        # Each token once, text after text: its text in falling length, its place among the text's own.
        text, column = mask[order].nonzero(as_tuple=True)
        place = torch.from_numpy(laid.starts)[text] + torch.arange(len(text)) - (lengths.cumsum(0) - lengths)[text]
        seen = (order[text], column)
        ids, kinds, positions = torch.zeros(3, laid.rows, dtype=torch.long)
        ids[place], positions[place] = input_ids[seen], column
        if token_type_ids is not None:
            kinds[place] = token_type_ids[seen]
        batch = {"input_ids": ids, "token_type_ids": kinds, "position_ids": positions}
        x = block_embeddings.embed(self._embeddings, batch, None)
        x = self._layers(x, blocks_of({"lengths": widths, "shapes": torch.tensor(laid.shapes)}), None)
        found = x.new_zeros(*input_ids.shape, x.shape[1])
        found[seen] = x[place]
        return BaseModelOutput(last_hidden_state=found)


def encodes(model: Any) -> bool:
    """Whether `FrozenEncoder` computes this model: a plain fp32 BertModel on a CPU, asked for no hidden states."""
    if f"{type(model).__module__}.{type(model).__qualname__}" != "transformers.models.bert.modeling_bert.BertModel":
        return False
    config = model.config
    asked = config.output_hidden_states or config.output_attentions
    wide = all(parameter.dtype is torch.float32 for parameter in model.parameters())
    if asked or not wide or model.device.type != "cpu" or not block_bert.supports(config):
        return False
    # An adapter or a quantised matrix stands in for a layer, and has a weight that is not what it multiplies by.
    with torch.device("meta"):
        plain = type(model)(copy.deepcopy(config))
    return _kinds(model) == _kinds(plain)


def _kinds(model: Any) -> list[dict[str, type]]:
    """The classes of the modules that `FrozenEncoder` reads, by name."""
    parts = (model.embeddings, model.encoder)
    return [{name: type(module) for name, module in part.named_modules()} for part in parts]


class _Layers:
    """A BERT's encoder layers, one after the other."""

    def __init__(self, bert: Any, dtype: torch.dtype, *, first_alone: bool) -> None:
        self._dtype, self._heads = dtype, bert.config.num_attention_heads
        # In bf16 without AMX torch's kernel takes up to twice as long as the products and the softmax it is made of.
        self._fused_is_slow = dtype is torch.bfloat16 and bf16_unit() == "AVX512_BF16"
        layers = bert.encoder.layer
        self._norms = [(layer.attention.output.LayerNorm, layer.output.LayerNorm) for layer in layers]
        with torch.inference_mode():
            self._products = products_of(layers, dtype, first_alone=first_alone)

    def __call__(self, x: torch.Tensor, blocks: list[Block], firsts: torch.Tensor | None) -> torch.Tensor:
        """Rows of the last layer's output: all tokens', or where they ask alone there the first ones', at `firsts`."""
        for layer, norms in zip(self._products, self._norms, strict=True):
            if isinstance(layer.into, FirstProducts):
                first = x[firsts]
                query = layer.into.query(first.to(self._dtype)).to(x.dtype)
                context = block_first.attend_frozen(query, x, layer.into, blocks).to(self._dtype)
                x = first
            else:
                context = self._attend(layer.into(x.to(self._dtype)), blocks)
            x = _add_norm(x, layer.out(context), norms[0])
            x = _add_norm(x, layer.down(layer.up(x.to(self._dtype), gelu=True)), norms[1])
        return x

    def _attend(self, into: torch.Tensor, blocks: list[Block]) -> torch.Tensor:
        """`block_attention.attend` without a gradient."""
        context = into.new_empty(len(into), into.shape[1] // 3)
        context[blocks[-1].rows.stop :] = 0.0
        for block in blocks:
            shape = (block.pairs, block.width, 3, self._heads, -1)
            attention = _by_products if self.products_pay(block) else _fused
            found = attention(into[block.rows].view(shape).permute(2, 0, 3, 1, 4), block)
            context[block.rows].view(block.pairs, block.width, self._heads, -1).copy_(found.transpose(1, 2))
        return context

    def products_pay(self, block: Block) -> bool:
        enough = block.pairs >= pairs_step(block.width)  # a few would be raised to many
        return self._fused_is_slow and enough and block.pairs * self._heads * block.width**2 <= MOST_WEIGHTS


def _fused(into: torch.Tensor, block: Block) -> torch.Tensor:
    """Attention of a block: of queries, keys and values (3, pairs, heads, width, size) their context.

    By torch's own kernel, which takes views of the rows as they are.
    """
    hidden = None if block.hidden is None else block.hidden.to(into.dtype)
    return F.scaled_dot_product_attention(into[0], into[1], into[2], attn_mask=hidden)


def _by_products(into: torch.Tensor, block: Block) -> torch.Tensor:
    """The same as two products, the softmax between them in fp32."""
    _, pairs, heads, width, size = into.shape
    # oneDNN compiles a kernel for every number of pairs.
    step = pairs_step(width)
    rows = into.new_empty(3, -(-pairs // step) * step, heads, width, size)
    rows[:, :pairs], rows[:, pairs:] = into, 0.0
    query, key, value = rows.flatten(1, 2)
    products = torch.bmm(query, key.transpose(1, 2)).float().mul_(size**-0.5)
    if block.hidden is not None:
        products.view(-1, heads, width, width)[:pairs].add_(block.hidden)
    found = torch.bmm(torch.softmax(products, -1).to(into.dtype), value)
    return found.view(-1, heads, width, size)[:pairs]


def _add_norm(x: torch.Tensor, y: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    """LayerNorm of x plus y; x is overwritten."""
    return F.layer_norm(x.add_(y), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
