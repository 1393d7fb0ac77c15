"""Rows made once and looked up: what comes of them is what each row would have come to alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from packed_models import batch_of, falling

from pipeline.engine import shared_rows
from pipeline.engine.block_attention import Block, blocks_of

HEADS, WIDTH = 2, 6


def made(rows: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Something that follows from a row's token, position and type alone: (rows, width) and (rows, 3 * width)."""
    number = (rows["input_ids"] * 31 + rows["position_ids"] * 7 + rows["token_type_ids"])[:, None].double()
    return torch.sin(number * torch.arange(1, WIDTH + 1)), torch.cos(number * torch.arange(1, 3 * WIDTH + 1))


def test_a_key_tells_its_row() -> None:
    batch = {
        "input_ids": torch.tensor([0, 250_000, 7, 7]),
        "position_ids": torch.tensor([0, 8191, 3, 3]),
        "token_type_ids": torch.tensor([0, 1, 1, 0]),
    }
    found = shared_rows.keys(batch)
    assert len(set(found.tolist())) == 4
    assert {name: tensor.tolist() for name, tensor in shared_rows.rows(found).items()} == {
        name: tensor.tolist() for name, tensor in batch.items()
    }


def test_the_commonest_come_first_and_stand_in_order() -> None:
    of = np.array([9] * 3 + [4] * 5 + [7, 2] + [5] * 2)
    assert list(dict.fromkeys(shared_rows.commonest(of, 3).tolist())) == [4, 5, 9]
    assert list(dict.fromkeys(shared_rows.commonest(of, 4).tolist())) == [2, 4, 5, 9], "of equals the smaller"
    whole = shared_rows.commonest(of, 100)
    assert len(whole) == 64 and whole.tolist() == sorted(whole), "a number that repeats"
    assert len(shared_rows.commonest(np.arange(1000), 64)) == 64


@pytest.mark.parametrize("most", [1, 20, 10**6], ids=["one", "some", "all"])
def test_rows_looked_up_are_those_made_one_by_one(most: int) -> None:
    batch = batch_of(falling())
    shared = shared_rows.commonest(shared_rows.keys(batch), most)
    split = shared_rows.split(batch, shared)
    others = len(np.setdiff1d(shared_rows.keys(batch), shared))
    assert (others == 0) == (most == 10**6) and len(split["input_ids"]) % 64 == 0
    assert 0 < len(split["input_ids"]) < len(batch["input_ids"]) and torch.equal(split["lengths"], batch["lengths"])
    lookup = shared_rows.Lookup(*made(shared_rows.rows(shared)), HEADS)
    expected, expected_into = made(batch)
    x, into = lookup(*made(split), split["number"])
    assert torch.equal(x, expected)
    for block in blocks_of(batch):
        shape = (block.pairs, block.width, 3, HEADS, WIDTH // HEADS)
        plain = expected_into[block.rows].view(shape).permute(2, 3, 0, 1, 4)
        assert torch.equal(into.of(block, block.pairs), plain)
        more = into.of(block, block.pairs + 3)
        assert torch.equal(more[:, :, : block.pairs], plain) and more.shape[2] == block.pairs + 3
        assert more.is_contiguous() and more.isfinite().all()


def test_each_micro_batch_has_its_own_others() -> None:
    """The room behind the shared rows is written anew, and grows."""
    one, other = batch_of(falling(7)), batch_of(falling(60))
    shared = shared_rows.commonest(shared_rows.keys(one), 5)
    lookup = shared_rows.Lookup(*made(shared_rows.rows(shared)), HEADS)
    for batch in (one, other, one):
        split = shared_rows.split(batch, shared)
        x, into = lookup(*made(split), split["number"])
        expected, expected_into = made(batch)
        assert torch.equal(x, expected)
        whole = into.of(Block(0, 0, 1, len(x), None), 1)
        assert torch.equal(whole[:, :, 0].permute(2, 0, 1, 3).reshape(len(x), -1), expected_into)
