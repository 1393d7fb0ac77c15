"""The best passages by inner product, exactly: in fp32 by faiss, or in bf16 and what that may have misplaced again.

Knows nothing of texts or models, and holds one block of passages at a time.
"""

from __future__ import annotations

from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.reproducibility import bf16_unit
from pipeline.mining.topk import Positions, best_columns, tied_at_cut

TILE = 512
"""Queries whose rough scores are held at once: 128 MiB against half a gigabyte of passages of 1,024 dimensions."""

PRODUCTS = 1 << 20
"""Numbers multiplied at once where pairs are scored one by one: two such arrays of 4 MiB stay in the cache."""

TIED_CELLS = 1 << 22
"""Scores held at once for queries with ties at the cut, whose whole rows of a block are sorted (16 MiB)."""

HALF_ULP_BF16, HALF_ULP_FP32 = 2.0**-8, 2.0**-24
"""Most that rounding to nearest moves a number, as a share of it."""

Vectors = npt.NDArray[np.float32]
"""(rows, dimension)."""

Best = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Scores and columns (queries, at most depth) in any order, lower columns first chosen among equal scores."""


class Block(Protocol):
    """Some passages, ready to be searched."""

    def best(self, queries: Vectors, depth: int) -> Best:
        """The `depth` best passages of each query; those of score -inf are none."""


def prepared(passages: Vectors) -> Block:
    """The block by which this CPU searches fastest. Both find the same, scores but for fp32's rounding."""
    return Rounded(passages) if bf16_unit() else Plain(passages)


def inner(queries: Vectors, query: Positions, passages: Vectors, passage: Positions) -> npt.NDArray[np.float32]:
    """Inner products (pairs,) of `queries[query[i]]` and `passages[passage[i]]`, the same wherever a pair stands."""
    left, right = torch.from_numpy(queries), torch.from_numpy(passages)
    scores = torch.empty(len(query))
    size = max(1, PRODUCTS // max(1, left.shape[1]))
    for start in range(0, len(query), size):
        part = slice(start, start + size)
        factors = left[torch.from_numpy(query[part])].mul_(right[torch.from_numpy(passage[part])])
        torch.sum(factors, dim=1, out=scores[part])
    return scores.numpy()


class Plain:
    """All of it in fp32. faiss keeps the best of tiles that fit the cache; the matrix is never there."""

    def __init__(self, passages: Vectors) -> None:
        self._passages = passages

    def best(self, queries: Vectors, depth: int) -> Best:
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

    How far a rough score may lie from the exact one is bounded, not guessed: rounding moved query q by dq and passage
    p by dp, so that q·p and the product of the rounded ones differ by at most |dq| |p| + |q + dq| |dp|
    (Cauchy-Schwarz), besides what summing in fp32 and rounding the sum to bf16 add.
    """

    def __init__(self, passages: Vectors) -> None:
        self._passages = passages
        whole = torch.from_numpy(passages)
        self._rough = whole.bfloat16()
        self._longest = self._moved = 0.0
        for start in range(0, len(whole), TILE):
            part, rough = whole[start : start + TILE], self._rough[start : start + TILE]
            self._longest = max(self._longest, float(part.norm(dim=1).max()))
            self._moved = max(self._moved, float((part - rough).norm(dim=1).max()))

    def best(self, queries: Vectors, depth: int) -> Best:
        """See `Block`."""
        parts = [self._tile(queries[start : start + TILE], depth) for start in range(0, len(queries), TILE)]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([columns for _, columns in parts])

    def _tile(self, queries: Vectors, depth: int) -> Best:
        depth = min(depth, len(self._passages))
        whole = torch.from_numpy(queries)
        rounded = whole.bfloat16()
        rough = rounded @ self._rough.T
        summing = 2 * whole.shape[1] * HALF_ULP_FP32 * whole.norm(dim=1) * self._longest
        apart = (whole - rounded).norm(dim=1) * self._longest + rounded.float().norm(dim=1) * self._moved + summing
        # `depth` passages are exactly at least this good, so those that must be worse are not among the best. Rounding
        # keeps order: what reached the floor before its sum was rounded reaches the rounded floor after.
        last = rough.topk(depth, dim=1, sorted=False).values.amin(1).float()
        floor = last - last.abs() * HALF_ULP_BF16 - 2 * apart
        query, column = (rough >= floor.bfloat16()[:, None]).nonzero(as_tuple=True)
        found = inner(queries, query.numpy(), self._passages, column.numpy())
        held = torch.bincount(query, minlength=len(queries))
        place = torch.arange(len(query)) - (held.cumsum(0) - held)[query]
        shape = (len(queries), int(held.max()))
        scores = torch.full(shape, -torch.inf).index_put_((query, place), torch.from_numpy(found))
        columns = torch.zeros(shape, dtype=torch.int64).index_put_((query, place), column)
        best, places = best_columns(scores, depth)
        return best, columns.gather(1, torch.from_numpy(places)).numpy()
