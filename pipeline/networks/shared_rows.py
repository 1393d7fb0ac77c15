"""Rows that many pairs share (same token, position and token type): computed once per scoring pass, then looked up.

What a BERT computes for a token before its first attention depends on these three alone. Of the 1.7 million rows of a
thousand questions with 30 candidates each, the 26,000 most frequent (words and padding) make up 63 %. Knows nothing of
models.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.inputs.batching import ROWS_STEP, Indices, rounded
from pipeline.networks.block_attention import Block

LOOKED_AT = 2**19
"""About how many rows of a pass, at most, are counted to find the most frequent; counting takes 40 ms."""

LEAST = 0.25
"""Smallest share of the rows that sharing must save; below it no row is shared, as each row's lookup costs time."""

Batch = dict[str, torch.Tensor]

_POSITIONS, _TYPES = 2**20, 2**8
"""More positions and token types than any model has."""


def keys(batch: Batch) -> Indices:
    """Return each row's key (rows,), which encodes token, position and type, of a batch made by `collation.blocks`."""
    ids, positions, types = (batch[name].numpy() for name in ("input_ids", "position_ids", "token_type_ids"))
    combined: Indices = (ids * _POSITIONS + positions) * _TYPES + types
    return combined


def rows(of: Indices) -> Batch:
    """Return the tokens, positions and types, (keys,) each, that keys stand for, in the form of a batch."""
    rest, types = np.divmod(of, _TYPES)
    ids, positions = np.divmod(rest, _POSITIONS)
    arrays = {"input_ids": ids, "position_ids": positions, "token_type_ids": types}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def commonest(of: Indices, most: int) -> tuple[Indices, float]:
    """Return the most frequent of some rows' keys (rows,), and the share of the rows that have these keys.

    The result has one to `most` keys, in ascending order; of equally frequent keys the smaller are taken first. The
    last key is repeated to reach one of few lengths (`rounded`).
    """
    distinct, counts = np.unique(of, return_counts=True)
    often = np.argsort(-counts, kind="stable")[:most]
    common = np.sort(distinct[often])
    padding = rounded(len(common), ROWS_STEP) - len(common)
    return np.pad(common, (0, padding), "edge"), float(counts[often].sum() / len(of))


def split(batch: Batch, shared: Indices) -> Batch:
    """Replace each row by its index into the `shared` keys followed by the batch's other rows.

    Returns:
        `input_ids`, `position_ids`, `token_type_ids` (others,): of the rows whose key is not shared, then token 0 at
        position 0 to reach one of few lengths (`rounded`);
        `place` (rows,) int64: each row's index;
        everything else as it was.
    """
    own = keys(batch)
    place = np.searchsorted(shared, own).clip(max=len(shared) - 1)
    others = np.flatnonzero(shared[place] != own)
    place[others] = len(shared) + np.arange(len(others))
    left_over = np.pad(own[others], (0, rounded(max(1, len(others)), ROWS_STEP) - len(others)))
    return {**batch, **rows(left_over), "place": torch.from_numpy(place)}


class Lookup:
    """What a model computed for the shared rows; each thread's copy has room at its end for a batch's other rows."""

    def __init__(self, x: torch.Tensor, qkv: torch.Tensor, heads: int) -> None:
        """Keep x (keys, width) and qkv (keys, 3 * width): queries, keys and values side by side, each of all heads."""
        self._x, self._qkv = x, qkv.view(len(x), 3 * heads, -1).transpose(0, 1)
        self._own = threading.local()

    def __call__(self, x: torch.Tensor, qkv: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, LookedUp]:
        """Return the batch's rows of x, (rows, width), and access to its rows of qkv.

        Args:
            x: (others, width), of the batch's rows that are not shared.
            qkv: (others, 3 * width), of the same rows.
            place: (rows,), each row's index into the shared rows followed by the others, from `split`.
        """
        own, (parts, shared, size) = self._own, self._qkv.shape
        end = shared + len(x)
        assert len(x) <= len(place), "both are rounded up to the same numbers"
        # Room for all of the batch's rows: their number varies less between micro-batches than the others' number.
        if shared + len(place) > len(getattr(own, "x", ())):
            own.x = torch.cat([self._x, x.new_empty(len(place), x.shape[1])])
            own.qkv = torch.cat([self._qkv, self._qkv.new_empty(parts, len(place), size)], 1)
        own.x[shared:end] = x
        own.qkv[:, shared:end] = qkv.view(len(x), parts, size).transpose(0, 1)
        return own.x.index_select(0, place), LookedUp(own.qkv, place)


@dataclass(slots=True)
class LookedUp:
    """Queries, keys and values of a micro-batch's rows; valid until the thread looks up its next micro-batch."""

    qkv: torch.Tensor
    """(3 * heads, shared rows and others, size)."""
    place: torch.Tensor
    """(rows,): each row's index into `qkv`."""

    def of(self, block: Block, pairs: int) -> torch.Tensor:
        """Return a block's rows of `qkv`, (3, heads, pairs, width, size), contiguous; surplus pairs repeat row 0."""
        place = F.pad(self.place[block.rows], (0, (pairs - block.pairs) * block.width))
        return self.qkv.index_select(1, place).view(3, len(self.qkv) // 3, pairs, block.width, -1)
