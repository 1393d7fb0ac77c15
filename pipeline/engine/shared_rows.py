"""Rows that many pairs have in common: a token at one position and of one type, made once a pass and looked up.

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
"""Rows among which the commonest are found, at most about so many of a pass: it takes 40 ms."""

LEAST = 0.25
"""Share of the rows that must be spared, or none is shared: looking up takes all of them time."""

Batch = dict[str, torch.Tensor]

_POSITIONS, _TYPES = 2**20, 2**8
"""More than any model has."""


def keys(batch: Batch) -> Indices:
    """One number a row of a batch made by `collation.blocks`, (rows,): equal where token, position and type are."""
    ids, positions, types = (batch[name].numpy() for name in ("input_ids", "position_ids", "token_type_ids"))
    found: Indices = (ids * _POSITIONS + positions) * _TYPES + types
    return found


def rows(of: Indices) -> Batch:
    """Tokens, positions and types (keys,) of some keys, as a batch holds them."""
    rest, types = np.divmod(of, _TYPES)
    ids, positions = np.divmod(rest, _POSITIONS)
    found = {"input_ids": ids, "position_ids": positions, "token_type_ids": types}
    return {name: torch.from_numpy(array) for name, array in found.items()}


def commonest(of: Indices, most: int) -> tuple[Indices, float]:
    """The distinct keys that some rows (rows,) have most often, and the share of the rows that have them.

    At least one key and at most `most`, in rising order; equally common ones are taken by their number. The last one is
    repeated up to a length that repeats.
    """
    distinct, counts = np.unique(of, return_counts=True)
    often = np.argsort(-counts, kind="stable")[:most]
    found = np.sort(distinct[often])
    return np.pad(found, (0, rounded(len(found), ROWS_STEP) - len(found)), "edge"), float(counts[often].sum() / len(of))


def split(batch: Batch, shared: Indices) -> Batch:
    """The batch with what its rows are told by their place among the `shared` keys or, of other rows, behind them.

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
    asked = np.pad(own[others], (0, rounded(max(1, len(others)), ROWS_STEP) - len(others)))
    return {**batch, **rows(asked), "place": torch.from_numpy(place)}


class Lookup:
    """What a model made of the shared rows, and in each thread a copy with room for a micro-batch's others behind."""

    def __init__(self, x: torch.Tensor, into: torch.Tensor, heads: int) -> None:
        """Keep x (keys, width) and into (keys, 3 * width): queries, keys and values side by side, each of all heads."""
        self._x, self._into = x, into.view(len(x), 3 * heads, -1).transpose(0, 1)
        self._own = threading.local()

    def __call__(self, x: torch.Tensor, into: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, LookedUp]:
        """Rows of x (rows, width), and what gives those of into, for a batch's `place` (rows,).

        x (others, width) and into (others, 3 * width) are of its others.
        """
        own, (parts, shared, size) = self._own, self._into.shape
        end = shared + len(x)
        assert len(x) <= len(place), "both are raised to the same numbers"
        # Room for all of its rows: how many of them are others varies more from one micro-batch to the next.
        if shared + len(place) > len(getattr(own, "x", ())):
            own.x = torch.cat([self._x, x.new_empty(len(place), x.shape[1])])
            own.into = torch.cat([self._into, self._into.new_empty(parts, len(place), size)], 1)
        own.x[shared:end] = x
        own.into[:, shared:end] = into.view(len(x), parts, size).transpose(0, 1)
        return own.x.index_select(0, place), LookedUp(own.into, place)


@dataclass(slots=True)
class LookedUp:
    """Queries, keys and values of a micro-batch's rows, until its thread looks up the next one's."""

    into: torch.Tensor
    """(3 * heads, shared and others, size)."""
    place: torch.Tensor
    """(rows,): where each row's stand in it."""

    def of(self, block: Block, pairs: int) -> torch.Tensor:
        """(3, heads, pairs, width, size) of a block, contiguous; pairs that it has not are filled with any row's."""
        place = F.pad(self.place[block.rows], (0, (pairs - block.pairs) * block.width))
        return self.into.index_select(1, place).view(3, len(self.into) // 3, pairs, block.width, -1)
