"""What a first stage is, and the best of many scores block by block. Pure: knows nothing of texts or models.

The result is what a full sort would give (score descending, index ascending), in memory that depends on the depth and
on one block, never on how many columns there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Positions = npt.NDArray[np.int64]
"""Indices into a list of texts."""


@dataclass(slots=True)
class Ranking:
    """The best passages of each query.

    `indices` (queries, depth) int32 into the corpus searched, -1 where fewer were found; `scores` the same shape,
    float32, -inf there. Order: score descending, corpus index ascending on ties.
    """

    indices: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.indices.shape[0])


class Searcher(Protocol):
    """A first stage over one list of passages."""

    def search(self, queries: Sequence[str], depth: int, rows: Positions | None = None) -> Ranking:
        """The best `depth` passages of each query, or of those at `rows`, by index into the passages."""

    def score(self, queries: Sequence[str], query: Positions, passage: Positions) -> npt.NDArray[np.float32]:
        """Scores (pairs,) of `queries[query[i]]` against passage `passage[i]`."""


def best_columns(
    block: torch.Tensor, depth: int, above: float = -math.inf
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Score and index of the best `depth` columns of each row of (rows, columns) float32 `block`, lower index on ties.

    Only scores greater than `above` count. Rows are in no particular order; NaN is not allowed.
    """
    # One more than wanted shows whether equal scores stand on both sides of the cut.
    scores, columns = block.topk(min(depth + 1, block.shape[1]), dim=1)
    for row in tied_at_cut(scores.numpy(), depth, above).tolist():
        columns[row] = block[row].argsort(descending=True, stable=True)[: depth + 1]
        scores[row] = block[row, columns[row]]
    scores = scores.masked_fill_(scores <= above, -math.inf)
    return scores[:, :depth].numpy(), columns[:, :depth].numpy()


def tied_at_cut(scores: npt.NDArray[np.float32], depth: int, above: float = -math.inf) -> Positions:
    """Rows of descending scores in which place `depth` and the next are equal, so that the cut between is arbitrary."""
    if scores.shape[1] <= depth:
        return np.empty(0, np.int64)
    return np.flatnonzero((scores[:, depth] == scores[:, depth - 1]) & (scores[:, depth] > above))


class RunningTop:
    """The `depth` best columns of `rows` rows, over blocks of columns handed in from left to right."""

    def __init__(self, rows: int, depth: int) -> None:
        self._scores = np.full((rows, depth), -np.inf, np.float32)
        self._indices = np.full((rows, depth), -1, np.int32)

    def add(self, scores: npt.NDArray[np.float32], columns: npt.NDArray[np.int64], offset: int) -> None:
        """Take in the best of a block.

        Args:
            scores: (rows, any) the best of each row in any order, at least `depth` where the block has them; -inf is
                not found.
            columns: Their places in the block.
            offset: Index of the block's first column, larger than every earlier one.
        """
        # Within a block by column, blocks from left to right: then a stable sort by score leaves ties in index order.
        order = columns.argsort(axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
        indices = np.take_along_axis(columns, order, axis=1).astype(np.int32) + np.int32(offset)
        indices[np.isneginf(scores)] = -1
        scores = np.concatenate([self._scores, scores], axis=1)
        indices = np.concatenate([self._indices, indices], axis=1)
        order = (-scores).argsort(axis=1, kind="stable")[:, : self._scores.shape[1]]
        self._scores = np.take_along_axis(scores, order, axis=1)
        self._indices = np.take_along_axis(indices, order, axis=1)

    def ranking(self) -> Ranking:
        """What was found so far."""
        return Ranking(self._indices, self._scores)


def stacked(parts: list[Ranking], depth: int) -> Ranking:
    """Rankings of consecutive queries as one."""
    if not parts:
        return Ranking(np.empty((0, depth), np.int32), np.empty((0, depth), np.float32))
    return Ranking(np.concatenate([p.indices for p in parts]), np.concatenate([p.scores for p in parts]))
