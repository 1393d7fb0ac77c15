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

from pipeline.core.processor import bf16_unit
from pipeline.mining.topk import Positions, best_columns, tied_at_cut

Floats = npt.NDArray[np.float32]

Best = tuple[Floats, npt.NDArray[np.int64]]
"""Scores and columns (queries, at most depth) in any order; of equal scores at the cut, the lower columns."""

ROUGH_CELLS = 1 << 26
"""Rough scores held at once (128 MiB)."""

CANDIDATES = 1 << 22
"""Passages that may be scored exactly before the best are kept, unless one query alone may have more."""

TIED_CELLS = 1 << 22
"""Scores held at once for queries with ties at the cut, whose whole rows of a block are sorted (16 MiB)."""

ROWS = 4_096
"""Passages rounded and multiplied at once."""

HALF_ULP_BF16, HALF_ULP_FP32 = 2.0**-8, 2.0**-24
"""Most that rounding to nearest moves a number, as a share of it."""


class Block(Protocol):
    """Some passages, ready to be searched."""

    def best(self, queries: Floats, depth: int) -> Best:
        """The `depth` best passages of each query."""


def prepared(passages: Floats) -> Block:
    """The block by which this CPU searches fastest. Where scores differ by more than fp32's rounding, both agree."""
    return Rounded(passages) if bf16_unit() else Plain(passages)


def products(queries: Floats, query: Positions, passages: Floats, passage: Positions) -> Floats:
    """Inner products (pairs,) of `queries[query[i]]` and `passages[passage[i]]`, the same wherever a pair stands.

    Reads the rows where they lie: gathering them first takes twice as long.
    """
    found = np.empty(len(query), np.float32)
    # faiss checks none of this, and reads on.
    assert len(query) == len(passage) and queries.shape[1] == passages.shape[1]
    rows = (faiss.swig_ptr(array) for array in (queries, query, passages, passage, found))
    faiss.pairwise_indexed_inner_product(queries.shape[1], len(query), *rows)  # type: ignore[attr-defined]
    return found


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
        most, group = (max(1, cells // len(self._passages)) for cells in (ROUGH_CELLS, CANDIDATES))
        tile = -(-len(queries) // -(-len(queries) // most))  # alike: few rows are multiplied at a worse rate
        held = torch.empty(tile, len(self._passages), dtype=torch.bfloat16)  # its pages serve every tile
        parts = []
        for start in range(0, len(queries), tile):
            asked = queries[start : start + tile]
            rough, floor = self._rough_scores(asked, depth, held)
            for row in range(0, len(asked), group):
                rows = slice(row, row + group)
                parts.append(self._exact(asked[rows], torch.ge(rough[rows], floor[rows]), depth))
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([columns for _, columns in parts])

    def _rough_scores(self, queries: Floats, depth: int, held: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rough scores (queries, passages), in `held`, and the least that any of the `depth` best has (queries, 1)."""
        asked = torch.from_numpy(queries)
        rounded, rough = asked.bfloat16(), held[: len(asked)]
        for start in range(0, len(self._passages), ROWS):
            part = slice(start, start + ROWS)
            torch.mm(rounded, self._rough[part].T, out=rough[:, part])
        # Dimension x half a unit for the rough sum and for the exact one, and as much for the rounding in these lines.
        summing = 3 * asked.shape[1] * HALF_ULP_FP32 * asked.norm(dim=1) * (self._longest + self._centred)
        moved = (asked - rounded).norm(dim=1) * self._centred + rounded.float().norm(dim=1) * self._moved
        # `depth` passages are exactly at least this good, so those that must be worse are not among the best. Rounding
        # keeps order: what reached the floor before its sum was rounded reaches the rounded floor after.
        last = rough.topk(depth, dim=1, sorted=False).values.amin(1).float()
        floor = last - last.abs() * HALF_ULP_BF16 - 2 * (moved + summing)
        return rough, floor.bfloat16()[:, None]

    def _exact(self, queries: Floats, candidates: torch.Tensor, depth: int) -> Best:
        """The best of candidates (queries, passages) bool; every query has `depth` of them or more."""
        query, column = np.divmod(np.flatnonzero(candidates.numpy()), len(self._passages))
        counts = np.bincount(query, minlength=len(queries))
        # One row a query, its candidates in order: of equal scores the lower column is the lower place.
        cells = query, np.arange(len(query)) - np.repeat(counts.cumsum() - counts, counts)
        columns = np.zeros((len(queries), counts.max()), np.int64)
        scores = np.full(columns.shape, -np.inf, np.float32)
        columns[cells], scores[cells] = column, products(queries, query, self._passages, column)
        best, places = best_columns(torch.from_numpy(scores), depth)
        return best, np.take_along_axis(columns, places, axis=1)


def _longest(rows: torch.Tensor) -> float:
    return float(rows.norm(dim=1).max())
