"""Small cross-encoders and pairs for tests of packed batches, and plain forms of attention and the fused kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from pipeline.inputs import collation
from pipeline.inputs.batching import TRAINING_WIDTH_STEP, micro_batches
from pipeline.inputs.pair_template import PairTemplate
from pipeline.inputs.tokens import TokenTable
from pipeline.networks import flash, fused, kernels

Pairs = tuple[TokenTable, npt.NDArray[np.int64], npt.NDArray[np.int64]]


def template(max_length: int = 24) -> PairTemplate:
    return PairTemplate((101,), (102,), (102,), (0, 0, 0, 1, 1), 0, 0, False, True, max_length)


def random_pairs(count: int = 25, longest_text: int = 30, max_length: int = 24) -> Pairs:
    """Return random pairs of 3 to `max_length` tokens, empty and truncated texts among them."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, longest_text, 40)
    kept = np.minimum(lengths, max_length)
    table = TokenTable(rng.integers(1, 100, kept.sum()), np.cumsum(kept) - kept, lengths)
    return table, rng.integers(0, 40, count), rng.integers(0, 40, count)


def bert(layers: int = 3, **values: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{
        "vocab_size": 200, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 32, "num_labels": 1, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2, "attn_implementation": "eager", **values,
    }))  # fmt: skip


def modernbert(layers: int = 5, pooling: str = "mean", **values: Any) -> ModernBertForSequenceClassification:
    """Return a ModernBERT: layers 0 and 3 are global, the others see 4 tokens on either side; pairs have up to 24."""
    torch.manual_seed(0)
    return ModernBertForSequenceClassification(ModernBertConfig(**{
        "vocab_size": 200, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 512, "num_labels": 1, "local_attention": 8,
        "classifier_pooling": pooling, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 101,
        "cls_token_id": 101, "eos_token_id": 102, "sep_token_id": 102, "attn_implementation": "sdpa", **values,
    }))  # fmt: skip


def padded(model: torch.nn.Module, pairs: Pairs, max_length: int = 24) -> torch.Tensor:
    """Return transformers' own logits of the pairs, as one padded batch."""
    batch = collation.pad(pairs[0], template(max_length), *pairs[1:])
    if "modernbert" in type(model).__module__:
        batch.pop("token_type_ids")
    place = next(model.parameters()).device
    logits: torch.Tensor = model(**{name: tensor.to(place) for name, tensor in batch.items()}).logits
    return logits


def gradients(model: torch.nn.Module, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of a weighted sum of the logits, with a weight of its own for every pair."""
    model.zero_grad(set_to_none=True)
    weights = torch.linspace(-1, 1, len(logits), dtype=logits.dtype, device=logits.device)
    (logits.flatten() * weights).sum().backward()
    return {name: p.grad.to_dense().clone() for name, p in model.named_parameters() if p.grad is not None}


def apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of two gradients, over all parameters, divided by the expected one's norm."""
    assert found.keys() == expected.keys()
    difference = sum(float((found[name].double() - expected[name].double()).square().sum()) for name in expected)
    return float((difference / sum(float(g.double().square().sum()) for g in expected.values())) ** 0.5)


class PlainFlash:
    """Stand-in for `flash.Flash` that computes whole matrices, run by run, on any device; it keeps its arguments.

    In a run with fewer queries than keys, the last query is aligned with the last key, as the kernel's documentation
    says of causal masks (bottom right).
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def apply(self, *args: Any) -> torch.Tensor:
        # Call torch's own operator on tensors without data: it refuses wrong types, such as a tensor for a length.
        empty = [arg.detach().to("meta") if isinstance(arg, torch.Tensor) else arg for arg in args]
        assert flash.Flash.apply(*empty).shape == args[0].shape  # type: ignore[no-untyped-call]
        self.calls.append(args)
        return plain_flash(*args)


def plain_flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, key_starts: torch.Tensor,
    arguments: flash.FlashArguments, seed: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Compute attention over runs of rows; the dropout masks are drawn from `seed`."""
    found = []
    generator = torch.Generator().manual_seed(seed)
    asked, kept = starts.tolist(), key_starts.tolist()
    for pair in range(len(asked) - 1):
        q, rows = query[asked[pair] : asked[pair + 1]], slice(kept[pair], kept[pair + 1])
        k, v = key[rows], value[rows]
        assert len(q) <= arguments.max_queries and len(k) <= arguments.max_keys
        scores = torch.einsum("qhd,khd->hqk", q, k) * arguments.scale
        offset = torch.arange(len(k))[None, :] - (torch.arange(len(q))[:, None] + len(k) - len(q))
        hidden = (offset.abs() > arguments.window) & (arguments.window >= 0)
        weights = scores.masked_fill(hidden.to(scores.device), float("-inf")).softmax(-1)
        if arguments.dropout:
            stays = torch.rand(weights.shape, generator=generator) >= arguments.dropout
            weights = weights * stays.to(weights) / (1 - arguments.dropout)
        found.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(found)


def falling(count: int = 60) -> Pairs:
    """Return pairs of 3 to 24 tokens in order of falling length, as in micro-batches."""
    table, first, second = random_pairs(count)
    (order,) = micro_batches(table.pair_lengths(template(), first, second), 10**6)
    return table, first[order], second[order]


def batch_of(pairs: Pairs, width_step: int = TRAINING_WIDTH_STEP) -> dict[str, torch.Tensor]:
    return collation.blocks(pairs[0], template(), *pairs[1:], width_step)


def run_plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the fused kernels with plain operators for a test, and let them run bf16 rows on any device."""
    monkeypatch.setattr(fused, "available_for", lambda rows: rows.dtype is torch.bfloat16)
    for plain in (plain_apply_rotary, plain_geglu, plain_geglu_backward, plain_add_norm, plain_add_norm_backward):
        monkeypatch.setattr(kernels, plain.__name__.removeprefix("plain_"), plain)


def plain_apply_rotary(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *,
    is_gradient: bool = False,
) -> torch.Tensor:  # fmt: skip
    c, s = cos[:, None], -sin[:, None] if is_gradient else sin[:, None]

    def rotated(rows: torch.Tensor) -> torch.Tensor:
        low, high = rows.float().chunk(2, dim=-1)
        return (rows.float() * c + torch.cat([-high, low], dim=-1) * s).to(rows.dtype)

    return torch.stack([rotated(query), rotated(key), value], dim=1)


def plain_geglu(rows: torch.Tensor) -> torch.Tensor:
    inner, gate = rows.chunk(2, dim=-1)
    return torch.nn.functional.gelu(inner) * gate


def plain_geglu_backward(rows: torch.Tensor, grad_output: torch.Tensor) -> torch.Tensor:
    inner, gate = rows.chunk(2, dim=-1)
    grad_inner = torch.ops.aten.gelu_backward(grad_output * gate, inner)
    return torch.cat([grad_inner, grad_output * torch.nn.functional.gelu(inner)], dim=-1)


def plain_add_norm(x: torch.Tensor, branch: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
    total = x + branch
    normed, mean, rstd = torch.native_layer_norm(total, weight.shape, weight, None, eps)
    return total, normed.to(branch.dtype), mean.flatten(), rstd.flatten()


def plain_add_norm_backward(
    grad_total: torch.Tensor, grad_normed: torch.Tensor, total: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor,
    weight: torch.Tensor,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
        grad_normed.float(), total, weight.shape, mean[:, None], rstd[:, None], weight, None, [True, True, False]
    )
    grad_x = grad_x + grad_total
    return grad_x, grad_x.to(grad_normed.dtype), grad_weight
