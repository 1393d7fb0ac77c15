"""Rows that many pairs have in common (one token at one position and of one type): computed once a pass, looked up.

All that a BERT computes of a token before its first attention follows from these three. Of the 1.7 million rows of a
thousand questions with 30 candidates each, the 26,000 commonest (words and padding) are 63 %. Knows no models.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.engine.batching import ROWS_STEP, Indices, rounded
from pipeline.engine.block_attention import Block

LOOKED_AT = 2**19
"""Rows of a pass that are counted to find the commonest, about so many at most: it takes 40 ms."""

LEAST = 0.25
"""Share of the rows that need not be computed below which none is shared: looking up costs time for every row."""

Batch = dict[str, torch.Tensor]

_POSITIONS, _TYPES = 2**20, 2**8
"""More than any model has."""


def keys(batch: Batch) -> Indices:
    """One number per row of a batch made by `collation.blocks`, (rows,): equal where token, position and type are."""
    ids, positions, types = (batch[name].numpy() for name in ("input_ids", "position_ids", "token_type_ids"))
    combined: Indices = (ids * _POSITIONS + positions) * _TYPES + types
    return combined


def rows(of: Indices) -> Batch:
    """Tokens, positions and types (keys,) of some keys, as a batch holds them."""
    rest, types = np.divmod(of, _TYPES)
    ids, positions = np.divmod(rest, _POSITIONS)
    arrays = {"input_ids": ids, "position_ids": positions, "token_type_ids": types}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def commonest(of: Indices, most: int) -> tuple[Indices, float]:
    """The most frequent of some rows' keys (rows,), and the share of the rows that have them.

    At least one key and at most `most`, in rising order; of equally frequent ones the smaller come first. The last key
    is repeated up to a length from few (`rounded`).
    """
    distinct, counts = np.unique(of, return_counts=True)
    often = np.argsort(-counts, kind="stable")[:most]
    common = np.sort(distinct[often])
    padding = rounded(len(common), ROWS_STEP) - len(common)
    return np.pad(common, (0, padding), "edge"), float(counts[often].sum() / len(of))


def split(batch: Batch, shared: Indices) -> Batch:
    """Replace each row by its index into the `shared` keys, or into the rows left over, which count on behind them.

    Returns:
        `input_ids`, `position_ids`, `token_type_ids` (others,): of the rows whose key is not shared, then token 0 at
        position 0 up to a number that repeats;
        `place` (rows,) int64: each row's;
        everything else as it was.
    """
    own = keys(batch)
    place = np.searchsorted(shared, own).clip(max=len(shared) - 1)
    others = np.flatnonzero(shared[place] != own)
    place[others] = len(shared) + np.arange(len(others))
    left_over = np.pad(own[others], (0, rounded(max(1, len(others)), ROWS_STEP) - len(others)))
    return {**batch, **rows(left_over), "place": torch.from_numpy(place)}


class Lookup:
    """What a model computed of the shared rows; each thread's copy has room behind it for a micro-batch's others."""

    def __init__(self, x: torch.Tensor, qkv: torch.Tensor, heads: int) -> None:
        """Keep x (keys, width) and qkv (keys, 3 * width): queries, keys and values side by side, each of all heads."""
        self._x, self._qkv = x, qkv.view(len(x), 3 * heads, -1).transpose(0, 1)
        self._own = threading.local()

    def __call__(self, x: torch.Tensor, qkv: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, LookedUp]:
        """Rows of x (rows, width), and access to those of qkv, for a batch's `place` (rows,).

        Args:
            x: (others, width), of the batch's rows that are not shared.
            qkv: (others, 3 * width), of the same rows.
            place: each row's index into the shared rows and the others behind them.
        """
        own, (parts, shared, size) = self._own, self._qkv.shape
        end = shared + len(x)
        assert len(x) <= len(place), "both are rounded up to the same numbers"
        # Room for all of its rows: that number varies less between micro-batches than the number of others does.
        if shared + len(place) > len(getattr(own, "x", ())):
            own.x = torch.cat([self._x, x.new_empty(len(place), x.shape[1])])
            own.qkv = torch.cat([self._qkv, self._qkv.new_empty(parts, len(place), size)], 1)
        own.x[shared:end] = x
        own.qkv[:, shared:end] = qkv.view(len(x), parts, size).transpose(0, 1)
        return own.x.index_select(0, place), LookedUp(own.qkv, place)


@dataclass(slots=True)
class LookedUp:
    """Queries, keys and values of a micro-batch's rows; valid until its thread looks up the next one's."""

    qkv: torch.Tensor
    """(3 * heads, shared and others, size)."""
    place: torch.Tensor
    """(rows,): each row's index into it."""

    def of(self, block: Block, pairs: int) -> torch.Tensor:
        """(3, heads, pairs, width, size) of a block, contiguous; pairs beyond the block's own are copies of row 0."""
        place = F.pad(self.place[block.rows], (0, (pairs - block.pairs) * block.width))
        return self.qkv.index_select(1, place).view(3, len(self.qkv) // 3, pairs, block.width, -1)
