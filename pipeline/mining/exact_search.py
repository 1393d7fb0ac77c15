"""Exact search for the best passages by inner product: in fp32 by faiss, or in bf16 and then fp32 where it may matter.

Knows nothing of texts or models. Embeddings are (rows, dimension) float32 arrays whose rows are of about unit length or
zero. A block of passages is never empty, nor are the queries searched in it.
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
"""Scores and columns, each (queries, at most depth), in any order; of equal scores at the cut, the lower columns."""

ROUGH_CELLS = 1 << 26
"""Rough scores held at once (128 MiB)."""

CANDIDATES = 1 << 22
"""Most candidates scored exactly at once, unless a single query can have more."""

TIED_CELLS = 1 << 22
"""Scores held at once (16 MiB) to sort the whole rows of queries with ties at the cut."""

ROWS = 4_096
"""Passages rounded and multiplied at once."""

HALF_ULP_BF16, HALF_ULP_FP32 = 2.0**-8, 2.0**-24
"""Largest relative error of rounding a number to nearest, in bf16 and in fp32."""


class Block(Protocol):
    """A block of passages, ready to be searched."""

    def best(self, queries: Floats, depth: int) -> Best:
        """Return the `depth` best passages of each query."""


def prepared(passages: Floats) -> Block:
    """Return the kind of block that this CPU searches fastest.

    Both kinds give the same result where scores differ by more than fp32's rounding.
    """
    return Rounded(passages) if bf16_unit() else Plain(passages)


def products(queries: Floats, query: Positions, passages: Floats, passage: Positions) -> Floats:
    """Return the inner products (pairs,) of `queries[query[i]]` and `passages[passage[i]]`.

    A pair's product does not depend on the other pairs. The rows are read in place: gathering them first takes twice as
    long.
    """
    found = np.empty(len(query), np.float32)
    # faiss does not check this, and would read out of bounds.
    assert len(query) == len(passage) and queries.shape[1] == passages.shape[1]
    rows = (faiss.swig_ptr(array) for array in (queries, query, passages, passage, found))
    faiss.pairwise_indexed_inner_product(queries.shape[1], len(query), *rows)  # type: ignore[attr-defined]
    return found


class Plain:
    """Search in fp32. faiss keeps the best of tiles that fit the cache, so the score matrix never exists as a whole."""

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
            # faiss keeps arbitrary columns of equal scores: sort these few rows in full.
            rows = tied[start : start + held]
            scores[rows], columns[rows] = best_columns(torch.from_numpy(queries[rows] @ block.T), depth)
        return scores, columns


class Rounded:
    """Search by rough scores in bf16 of all passages, then exact scores in fp32 of all that may be among the best.

    Rough scores are computed on passages minus their mean, which keeps each query's order and leaves less to round.

    The error of a rough score is bounded, not guessed. Rounding moves query q by dq and passage p by dp, so q·p and the
    product of the rounded vectors differ by at most |dq| |p| + |q + dq| |dp| (Cauchy-Schwarz). Summing in fp32 and
    rounding the sum to bf16 add to this error.
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
        tile = -(-len(queries) // -(-len(queries) // most))  # equal tiles: a matmul of few rows is less efficient
        held = torch.empty(tile, len(self._passages), dtype=torch.bfloat16)  # one buffer, reused by every tile
        parts = []
        for start in range(0, len(queries), tile):
            asked = queries[start : start + tile]
            rough, floor = self._rough_scores(asked, depth, held)
            for row in range(0, len(asked), group):
                rows = slice(row, row + group)
                parts.append(self._exact(asked[rows], torch.ge(rough[rows], floor[rows]), depth))
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([columns for _, columns in parts])

    def _rough_scores(self, queries: Floats, depth: int, held: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rough scores (queries, passages), stored in `held`, and their floor (queries, 1).

        The floor is the least rough score that any of the `depth` exactly best passages can have.
        """
        asked = torch.from_numpy(queries)
        rounded, rough = asked.bfloat16(), held[: len(asked)]
        for start in range(0, len(self._passages), ROWS):
            part = slice(start, start + ROWS)
            torch.mm(rounded, self._rough[part].T, out=rough[:, part])
        # Dimension x half a unit for the rough sum, as much for the exact sum, as much for the rounding in these lines.
        summing = 3 * asked.shape[1] * HALF_ULP_FP32 * asked.norm(dim=1) * (self._longest + self._centred)
        moved = (asked - rounded).norm(dim=1) * self._centred + rounded.float().norm(dim=1) * self._moved
        # `depth` passages have an exact score of at least `last` less its own rounding and the error bound. A passage
        # whose exact score reaches that has a rough sum of at least that less the bound once more: the floor. Rounding
        # keeps order: a sum that reaches the floor still reaches the rounded floor once it is rounded itself.
        last = rough.topk(depth, dim=1, sorted=False).values.amin(1).float()
        floor = last - last.abs() * HALF_ULP_BF16 - 2 * (moved + summing)
        return rough, floor.bfloat16()[:, None]

    def _exact(self, queries: Floats, candidates: torch.Tensor, depth: int) -> Best:
        """Return the best of the candidates, a (queries, passages) bool mask with at least `depth` for each query."""
        query, column = np.divmod(np.flatnonzero(candidates.numpy()), len(self._passages))
        counts = np.bincount(query, minlength=len(queries))
        # One row per query holds its candidates in column order, so of equal scores the lower column comes first.
        cells = query, np.arange(len(query)) - np.repeat(counts.cumsum() - counts, counts)
        columns = np.zeros((len(queries), counts.max()), np.int64)
        scores = np.full(columns.shape, -np.inf, np.float32)
        columns[cells], scores[cells] = column, products(queries, query, self._passages, column)
        best, places = best_columns(torch.from_numpy(scores), depth)
        return best, np.take_along_axis(columns, places, axis=1)


def _longest(rows: torch.Tensor) -> float:
    return float(rows.norm(dim=1).max())
