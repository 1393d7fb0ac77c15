"""The attention of first tokens alone, against keys and values written out, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from packed_models import batch_of, falling

from pipeline.networks import block_first
from pipeline.networks.block_attention import Block, blocks_of
from pipeline.networks.block_linear import FirstTokenLinears
from pipeline.networks.dropout import Dropout, scale

HEADS, WIDTH = 2, 32


@dataclass
class Case:
    """Random inputs of one attention; `key` and `value` are `torch.nn.Linear`s."""

    x: torch.Tensor
    query: torch.Tensor
    key: torch.nn.Linear
    value: torch.nn.Linear
    blocks: list[Block]

    @property
    def linears(self) -> FirstTokenLinears:
        attention = SimpleNamespace(
            num_attention_heads=HEADS,
            attention_head_size=WIDTH // HEADS,
            query=self.key,
            key=self.key,
            value=self.value,
        )
        return FirstTokenLinears(attention, torch.float64, keep_weight=True)

    def written_out(self, rate: float, seed: int) -> torch.Tensor:
        """Context of each pair's query, (pairs, width), with a gradient."""
        found, dropout = [], Dropout(seed)
        for block in self.blocks:
            mask = dropout.mask((block.pairs, HEADS, block.width), rate) if rate else None
            rows = self.x[block.rows].view(block.pairs, block.width, WIDTH)
            key, value = (linear(rows).unflatten(2, (HEADS, -1)).transpose(1, 2) for linear in (self.key, self.value))
            query = self.query[block.numbers].unflatten(1, (HEADS, -1))[:, :, None]
            scores = (query @ key.transpose(2, 3))[:, :, 0] * (WIDTH // HEADS) ** -0.5
            if block.attention_mask is not None:
                scores = scores + block.attention_mask[:, 0]
            weights = scores.softmax(-1)
            if mask is not None:
                weights = weights * mask.neg() * scale(rate)
            found.append((weights[:, :, None] @ value).flatten(1))
        return torch.cat(found)


@pytest.fixture(params=["several pairs a block, some with pads", "a pair a block", "no pads"])
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(3)
    batch = batch_of(falling(57))
    if request.param != "several pairs a block, some with pads":
        pairs = 1 if request.param == "a pair a block" else 4
        shapes = torch.tensor([[pairs, width] for width in (9, 5, 5, 2)])
        lengths = torch.repeat_interleave(shapes[:, 1], shapes[:, 0])
        batch |= {"shapes": shapes, "lengths": lengths - int(pairs == 1)}
    x, query = (torch.randn(len(batch[name]), WIDTH, dtype=torch.float64) for name in ("input_ids", "first_tokens"))
    key, value = torch.nn.Linear(WIDTH, WIDTH).double(), torch.nn.Linear(WIDTH, WIDTH).double()
    blocks = blocks_of(batch)
    assert (request.param == "no pads") == all(block.attention_mask is None for block in blocks)
    return Case(x.requires_grad_(), query.requires_grad_(), key, value, blocks)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_context_and_gradients_equal_those_of_keys_and_values(case: Case, rate: float) -> None:
    expected = case.written_out(rate, seed=7)
    upstream = torch.zeros(len(case.query), WIDTH, dtype=torch.float64)
    upstream[: len(expected)] = torch.randn_like(expected)
    expected.backward(upstream[: len(expected)])
    assert case.key.bias.grad is not None and float(case.key.bias.grad.abs().max()) < 1e-12, "why none is made"
    with torch.no_grad():
        found, kept = block_first.attend(
            case.query, case.x, case.linears, case.blocks, dropout=Dropout(7) if rate else None, rate=rate
        )
        ours = block_first.gradients(upstream, kept, case.linears, case.blocks, rate=rate)
    torch.testing.assert_close(found[: len(expected)], expected.detach(), rtol=1e-10, atol=1e-12)
    pairs = {
        "query": (ours.query, case.query.grad), "x": (ours.x, case.x.grad), "key": (ours.key, case.key.weight.grad),
        "value": (ours.value, case.value.weight.grad), "value_bias": (ours.value_bias, case.value.bias.grad),
    }  # fmt: skip
    for name, (made, wanted) in pairs.items():
        torch.testing.assert_close(made, wanted, rtol=1e-9, atol=1e-12, msg=name)


def test_frozen_it_is_the_same(case: Case) -> None:
    with torch.inference_mode():
        found = block_first.attend_frozen(case.query, case.x, case.linears, case.blocks)
        expected, _ = block_first.attend(case.query, case.x, case.linears, case.blocks, dropout=None, rate=0.0)
    pairs = case.blocks[-1].numbers.stop
    assert pairs < len(found) and bool(found.isfinite().all()), "padding has a context too"
    torch.testing.assert_close(found[:pairs], expected[:pairs], rtol=1e-10, atol=1e-12)
