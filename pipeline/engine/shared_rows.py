"""Rows that many pairs have in common: a token at one position and of one type, made once a pass and looked up.

All that a BERT computes of a token before its first attention follows from these three. Of the 1.7 million rows of a
thousand questions with 30 candidates each, the 26,000 commonest (words and padding) are two thirds. Knows no models.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.engine.batching import Indices, rounded
from pipeline.engine.block_attention import Block

LOOKED_AT = 2**19
"""Rows among which the commonest are found, at most about so many of a pass: it takes 40 ms."""

Batch = dict[str, torch.Tensor]

_POSITIONS, _TYPES = 2**20, 2**8
"""More than any model has."""


def keys(batch: Batch) -> Indices:
    """One number a row of a batch made by `TokenTable.blocks`, (rows,): equal where token, position and type are."""
    ids, positions, types = (batch[name].numpy() for name in ("input_ids", "position_ids", "token_type_ids"))
    found: Indices = (ids * _POSITIONS + positions) * _TYPES + types
    return found


def rows(of: Indices) -> Batch:
    """Tokens, positions and types (keys,) of some keys, as a batch holds them."""
    rest, types = np.divmod(of, _TYPES)
    ids, positions = np.divmod(rest, _POSITIONS)
    found = {"input_ids": ids, "position_ids": positions, "token_type_ids": types}
    return {name: torch.from_numpy(array) for name, array in found.items()}


def commonest(of: Indices, most: int) -> Indices:
    """Those of some rows' keys that occur most often, at most `most`, in rising order; at least one.

    Equally common ones stand by their number. The last is repeated up to a number that repeats.
    """
    distinct, counts = np.unique(of, return_counts=True)
    found = np.sort(distinct[np.argsort(-counts, kind="stable")[:most]])
    return np.pad(found, (0, rounded(len(found), 64) - len(found)), "edge")


def split(batch: Batch, shared: Indices) -> Batch:
    """The batch with its tokens' part told by `shared` keys where they have a row's, else by what the row itself is.

    Returns:
        `input_ids`, `position_ids`, `token_type_ids` (others,): of rows not among the shared and, up to a number that
        repeats, of others;
        `number` (rows,) int64: each row's among the shared and behind them the others;
        everything else as it was.
    """
    own = keys(batch)
    number = np.searchsorted(shared, own).clip(max=len(shared) - 1)
    others = np.flatnonzero(shared[number] != own)
    number[others] = len(shared) + np.arange(len(others))
    asked = np.pad(own[others], (0, max(64, rounded(len(others), 64)) - len(others)))
    return {**batch, **rows(asked), "number": torch.from_numpy(number)}


class Lookup:
    """What a model made of the shared rows, and in each thread room behind them for a micro-batch's others."""

    def __init__(self, x: torch.Tensor, into: torch.Tensor, heads: int) -> None:
        """Keep x (keys, width) and into (keys, 3 * width), queries, keys and values side by side."""
        self._x, self._into = x, into.view(len(x), 3 * heads, -1).transpose(0, 1)
        self._room = threading.local()

    def __call__(self, x: torch.Tensor, into: torch.Tensor, number: torch.Tensor) -> tuple[torch.Tensor, LookedUp]:
        """Rows of x, and what gives those of into, by a batch's `number`; both given for its others."""
        end, heads = len(self._x) + len(x), len(self._into)
        if end > len(getattr(self._room, "x", ())):
            self._room.x = torch.cat([self._x, torch.empty_like(x)])
            self._room.into = torch.cat([self._into, self._into.new_empty(heads, *x.shape[:1], self._into.shape[2])], 1)
        self._room.x[len(self._x) : end] = x
        self._room.into[:, len(self._x) : end] = into.view(len(x), heads, -1).transpose(0, 1)
        return self._room.x.index_select(0, number), LookedUp(self._room.into, number)


@dataclass(slots=True)
class LookedUp:
    """Queries, keys and values of a micro-batch's rows, until the thread looks up the next one's."""

    into: torch.Tensor
    """(3 * heads, shared and others, size)."""
    number: torch.Tensor

    def of(self, block: Block, pairs: int) -> torch.Tensor:
        """(3, heads, pairs, width, size) of a block, contiguous; pairs that it has not are filled with any row's."""
        number = F.pad(self.number[block.rows], (0, (pairs - block.pairs) * block.width))
        return self.into.index_select(1, number).view(3, len(self.into) // 3, pairs, block.width, -1)
