"""Rows made once and looked up: what comes of them is what each row would have come to alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from packed_models import batch_of, falling

from pipeline.networks import shared_rows
from pipeline.networks.block_attention import Block, blocks_of

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
    for most, expected, share in ((3, [4, 5, 9], 10 / 12), (4, [2, 4, 5, 9], 11 / 12), (100, [2, 4, 5, 7, 9], 1.0)):
        found, of_rows = shared_rows.commonest(of, most)
        assert list(dict.fromkeys(found.tolist())) == expected, "of equals the smaller"
        assert of_rows == pytest.approx(share)
        assert len(found) == 64 and found.tolist() == sorted(found), "a length that repeats"
    assert len(shared_rows.commonest(np.arange(1000), 64)[0]) == 64


@pytest.mark.parametrize("most", [1, 20, 10**6], ids=["one", "some", "all"])
def test_rows_looked_up_are_those_made_one_by_one(most: int) -> None:
    batch = batch_of(falling())
    shared, _ = shared_rows.commonest(shared_rows.keys(batch), most)
    split = shared_rows.split(batch, shared)
    others = len(np.setdiff1d(shared_rows.keys(batch), shared))
    assert (others == 0) == (most == 10**6) and len(split["input_ids"]) % 64 == 0
    assert 0 < len(split["input_ids"]) < len(batch["input_ids"]) and torch.equal(split["lengths"], batch["lengths"])
    lookup = shared_rows.Lookup(*made(shared_rows.rows(shared)), HEADS)
    expected, expected_qkv = made(batch)
    x, qkv = lookup(*made(split), split["place"])
    assert torch.equal(x, expected)
    for block in blocks_of(batch):
        shape = (block.pairs, block.width, 3, HEADS, WIDTH // HEADS)
        plain = expected_qkv[block.rows].view(shape).permute(2, 3, 0, 1, 4)
        assert torch.equal(qkv.of(block, block.pairs), plain)
        more = qkv.of(block, block.pairs + 3)
        assert torch.equal(more[:, :, : block.pairs], plain) and more.shape[2] == block.pairs + 3
        assert more.is_contiguous() and more.isfinite().all()


def test_each_micro_batch_has_its_own_others() -> None:
    """The room behind the shared rows is written anew, and grows."""
    one, other = batch_of(falling(7)), batch_of(falling(60))
    shared, _ = shared_rows.commonest(shared_rows.keys(one), 5)
    lookup = shared_rows.Lookup(*made(shared_rows.rows(shared)), HEADS)
    rooms = []
    for batch in (one, other, one):
        split = shared_rows.split(batch, shared)
        x, qkv = lookup(*made(split), split["place"])
        expected, expected_qkv = made(batch)
        assert torch.equal(x, expected)
        rooms.append(lookup._own.x)
        whole = qkv.of(Block(0, 0, 1, len(x), None), 1)
        assert torch.equal(whole[:, :, 0].permute(2, 0, 1, 3).reshape(len(x), -1), expected_qkv)
    assert rooms[0] is not rooms[1] and rooms[1] is rooms[2]


def test_each_thread_has_its_own_room() -> None:
    one, other = batch_of(falling(20)), batch_of(falling(60))
    shared, _ = shared_rows.commonest(shared_rows.keys(one), 5)
    lookup = shared_rows.Lookup(*made(shared_rows.rows(shared)), HEADS)

    def looked_up(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, shared_rows.LookedUp]:
        split = shared_rows.split(batch, shared)
        return lookup(*made(split), split["place"])

    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        x, qkv = first.submit(looked_up, one).result()
        second.submit(looked_up, other).result()
    whole = qkv.of(Block(0, 0, 1, len(x), None), 1)
    assert torch.equal(whole[:, :, 0].permute(2, 0, 1, 3).reshape(len(x), -1), made(one)[1])
