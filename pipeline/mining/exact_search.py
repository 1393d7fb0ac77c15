"""The best passages by inner product, exactly: in fp32 by faiss, or in bf16 first and in fp32 what that may misplace.

Knows nothing of texts or models. Embeddings are (rows, dimension) float32 arrays, rows of about unit length or zero,
and a block of them and the queries asked of it are never empty.
"""

from __future__ import annotations

from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.reproducibility import bf16_unit
from pipeline.mining.topk import Positions, best_columns, tied_at_cut

Floats = npt.NDArray[np.float32]

Best = tuple[Floats, npt.NDArray[np.int64]]
"""Scores and columns (queries, at most depth) in any order; of equal scores at the cut, the lower columns."""

ROUGH_CELLS = 1 << 26
"""Rough scores held at once (128 MiB)."""

CANDIDATES = 1 << 22
"""Passages that may be scored exactly before the best are kept, unless one query alone may have more."""

PRODUCTS = 1 << 20
"""Numbers multiplied at once where pairs are scored one by one: two such arrays of 4 MiB stay in the cache."""

TIED_CELLS = 1 << 22
"""Scores held at once for queries with ties at the cut, whose whole rows of a block are sorted (16 MiB)."""

ROWS = 4_096
"""Passages rounded at once."""

HALF_ULP_BF16, HALF_ULP_FP32 = 2.0**-8, 2.0**-24
"""Most that rounding to nearest moves a number, as a share of it."""


class Block(Protocol):
    """Some passages, ready to be searched."""

    def best(self, queries: Floats, depth: int) -> Best:
        """The `depth` best passages of each query."""


def prepared(passages: Floats) -> Block:
    """The block by which this CPU searches fastest. Where scores differ by more than fp32's rounding, both agree."""
    return Rounded(passages) if bf16_unit() else Plain(passages)


def inner(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Inner products (rows,) of equally many rows, the same wherever a pair of rows stands.

    (Up to 32,768 dimensions: torch sums a longer row that is alone in its call otherwise.)
    """
    return (left * right).sum(dim=1)


class Plain:
    """All of it in fp32. faiss keeps the best of tiles that fit the cache; the matrix is never there."""

    def __init__(self, passages: Floats) -> None:
        self._passages = passages

    def best(self, queries: Floats, depth: int) -> Best:
        """See `Block`."""
        block = self._passages
        scores, columns = faiss.knn(queries, block, min(depth + 1, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        tied = tied_at_cut(scores, depth)
        scores, columns = scores[:, :depth], columns[:, :depth]
        held = max(1, TIED_CELLS // len(block))
        for start in range(0, len(tied), held):
            # faiss keeps any of equal scores; these few rows are sorted in full.
            rows = tied[start : start + held]
            scores[rows], columns[rows] = best_columns(torch.from_numpy(queries[rows] @ block.T), depth)
        return scores, columns


class Rounded:
    """Rough scores in bf16 for all, exact ones in fp32 for every passage that may be among the best.

    Rough scores are of passages less their mean, which changes no query's order and leaves less to round.

    How far a rough score may lie from the exact one is bounded, not guessed: rounding moved query q by dq and passage
    p by dp, so that q·p and the product of the rounded ones differ by at most |dq| |p| + |q + dq| |dp|
    (Cauchy-Schwarz), besides what summing in fp32 and rounding the sum to bf16 add.
    """

    def __init__(self, passages: Floats) -> None:
        self._passages = passages
        mean = torch.from_numpy(passages.mean(axis=0))
        self._rough = torch.empty(passages.shape, dtype=torch.bfloat16)
        self._longest = self._centred = self._moved = 0.0
        for start in range(0, len(passages), ROWS):
            part = torch.from_numpy(passages[start : start + ROWS])
            centred = part - mean
            rough = self._rough[start : start + ROWS].copy_(centred)
            self._longest = max(self._longest, _longest(part))
            self._centred = max(self._centred, _longest(centred))
            self._moved = max(self._moved, _longest(centred - rough))

    def best(self, queries: Floats, depth: int) -> Best:
        """See `Block`."""
        depth = min(depth, len(self._passages))
        tile, group = (max(1, cells // len(self._passages)) for cells in (ROUGH_CELLS, CANDIDATES))
        parts = []
        for start in range(0, len(queries), tile):
            asked = queries[start : start + tile]
            candidates = self._candidates(asked, depth)
            for row in range(0, len(asked), group):
                query, column = candidates[row : row + group].nonzero(as_tuple=True)
                parts.append(self._exact(asked[row : row + group], query.numpy(), column.numpy(), depth))
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([columns for _, columns in parts])

    def _candidates(self, queries: Floats, depth: int) -> torch.Tensor:
        """Which passages may be among the `depth` best of each query: (queries, passages) bool."""
        asked = torch.from_numpy(queries)
        rounded = asked.bfloat16()
        rough = rounded @ self._rough.T
        # Dimension x half a unit for the rough sum and for the exact one, and as much for the rounding in these lines.
        summing = 3 * asked.shape[1] * HALF_ULP_FP32 * asked.norm(dim=1) * (self._longest + self._centred)
        moved = (asked - rounded).norm(dim=1) * self._centred + rounded.float().norm(dim=1) * self._moved
        # `depth` passages are exactly at least this good, so those that must be worse are not among the best. Rounding
        # keeps order: what reached the floor before its sum was rounded reaches the rounded floor after.
        last = rough.topk(depth, dim=1, sorted=False).values.amin(1).float()
        floor = last - last.abs() * HALF_ULP_BF16 - 2 * (moved + summing)
        return torch.ge(rough, floor.bfloat16()[:, None])

    def _exact(self, queries: Floats, query: Positions, column: Positions, depth: int) -> Best:
        """The best of candidates in order of query and column; every query has `depth` of them or more."""
        asked, passages = torch.from_numpy(queries), torch.from_numpy(self._passages)
        rows, columns = torch.from_numpy(query), torch.from_numpy(column)
        scores = np.empty(len(query), np.float32)
        size = max(1, PRODUCTS // max(1, asked.shape[1]))
        for start in range(0, len(query), size):
            part = slice(start, start + size)
            # torch's gather takes every thread, numpy's one.
            scores[part] = inner(asked.index_select(0, rows[part]), passages.index_select(0, columns[part])).numpy()
        order = np.lexsort((-scores, query))  # stable: of equal scores the lower column comes first
        counts = np.bincount(query, minlength=len(queries))
        chosen = order[(counts.cumsum() - counts)[:, None] + np.arange(depth)]
        return scores[chosen], column[chosen]


def _longest(rows: torch.Tensor) -> float:
    return float(rows.norm(dim=1).max())
