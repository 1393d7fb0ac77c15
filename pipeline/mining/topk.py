"""The interface of a first stage, and a top-k of scores block by block. Pure: knows nothing of texts or models.

The top-k equals the start of a full sort (score descending, index ascending). Its memory depends on the depth and the
size of one block, not on the number of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    `indices` (queries, depth) int32 index the searched passages and are -1 where fewer were found; `scores` (queries,
    depth) float32 are -inf there. Order: score descending, passage index ascending on ties.
    """

    indices: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.indices.shape[0])


class Searcher(Protocol):
    """A first stage over one list of passages."""

    def search(self, queries: Sequence[str], depth: int, rows: Positions | None = None) -> Ranking:
        """Return the best `depth` passages of each query, or of the queries at `rows`, as indices of passages."""

    def score(self, queries: Sequence[str], query: Positions, passage: Positions) -> npt.NDArray[np.float32]:
        """Return the scores (pairs,) of `queries[query[i]]` against passage `passage[i]`."""


FirstStage = Callable[[Positions], Searcher]
"""Function that makes a searcher over the passages at the given positions of the corpus."""


def best_columns(block: torch.Tensor, depth: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the scores and indices of the `depth` best columns of each row of `block` (rows, columns) float32.

    Of equal scores at the cut, the lower indices are kept. The results of a row are in no particular order. NaN is not
    allowed.
    """
    # One more than `depth` shows whether equal scores lie on both sides of the cut.
    scores, columns = block.topk(min(depth + 1, block.shape[1]), dim=1)
    for row in tied_at_cut(scores.numpy(), depth).tolist():
        columns[row] = block[row].argsort(descending=True, stable=True)[: depth + 1]
        scores[row] = block[row, columns[row]]
    return scores[:, :depth].numpy(), columns[:, :depth].numpy()


def tied_at_cut(scores: npt.NDArray[np.float32], depth: int) -> Positions:
    """Return the rows of descending scores with equal scores on both sides of the cut at `depth`.

    In these rows, which of the equal scores were kept is arbitrary.
    """
    if scores.shape[1] <= depth:
        return np.empty(0, np.int64)
    return np.flatnonzero(scores[:, depth] == scores[:, depth - 1])


class RunningTop:
    """The `depth` best columns of each of `rows` rows, over blocks of columns that are added from left to right."""

    def __init__(self, rows: int, depth: int) -> None:
        self._scores = np.full((rows, depth), -np.inf, np.float32)
        self._indices = np.full((rows, depth), -1, np.int32)

    def add(self, scores: npt.NDArray[np.float32], columns: npt.NDArray[np.int64], offset: int) -> None:
        """Add the best of a block.

        Args:
            scores: (rows, any) the best scores of each row, in any order, at least `depth` of them if the block has
                that many; -inf stands for nothing found.
            columns: (rows, any) the column of each score in the block.
            offset: Index of the block's first column, greater than that of every earlier block.
        """
        # Sort the block by column. Blocks come from left to right: a stable sort by score keeps ties in index order.
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
        """Return the best found so far."""
        return Ranking(self._indices, self._scores)


def stacked(parts: list[Ranking], depth: int) -> Ranking:
    """Join the rankings of consecutive queries into one."""
    if not parts:
        return Ranking(np.empty((0, depth), np.int32), np.empty((0, depth), np.float32))
    return Ranking(np.concatenate([p.indices for p in parts]), np.concatenate([p.scores for p in parts]))
