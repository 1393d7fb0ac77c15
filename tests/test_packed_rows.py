"""Rows put together from runs of tokens are the padded batch's, out of all of a table's ids or a batch's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from packed_models import random_pairs, template

from pipeline.inputs import collation, tokens
from pipeline.networks.packed_rows import Rows

CPU = torch.device("cpu")


@pytest.fixture()
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of 64 KiB, of which a table may have one: as the CPU, for a table of 2.4."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**16))


@pytest.mark.parametrize("kept", ["a batch's own", "all of the table", "too many for the device"])
def test_rows_are_the_padded_batchs(kept: str, room: None, monkeypatch: pytest.MonkeyPatch) -> None:
    table, first, second = random_pairs()
    monkeypatch.setattr(tokens, "KEPT_SHARE", 1 / 64 if kept == "too many for the device" else 1)
    padded = collation.pad(table, template(), first, second)
    there = padded["attention_mask"].bool()
    device = None if kept == "a batch's own" else CPU
    table.keep_on(CPU, template())
    batch = collation.pack(table, template(), first, second, device)
    assert (len(batch["ids"]) == len(table.ids) + 3) == (kept == "all of the table")
    rows = Rows.of(batch)
    assert rows.ids.tolist() == padded["input_ids"][there].tolist()
    assert rows.token_type_ids.tolist() == padded["token_type_ids"][there].tolist()
    pair, position = there.nonzero().unbind(1)
    layout = rows.layout
    assert torch.equal(layout.pair, pair) and torch.equal(layout.position, position)
    assert torch.equal(layout.present, there) and layout.longest == there.shape[1]
    assert layout.starts.tolist() == [0, *there.sum(dim=1).cumsum(0).tolist()]
    if kept == "all of the table":
        assert collation.pack(table, template(), second, first, device)["ids"] is batch["ids"], "copied once"


def test_without_memory_for_a_tables_tokens_batches_bring_their_own(
    room: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, first, second = random_pairs()
    monkeypatch.setattr(tokens, "KEPT_SHARE", 1)

    def full(*_: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.Tensor, "to", full)
    table.keep_on(CPU, template())
    monkeypatch.undo()
    assert table.kept_on(CPU, template()) is None
    assert len(collation.pack(table, template(), first, second, CPU)["ids"]) < len(table.ids)
