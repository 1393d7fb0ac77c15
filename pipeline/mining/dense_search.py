"""The dense first stage: exact search over embeddings on disk, in blocks of queries and of passages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.core.progress import bar
from pipeline.mining.embeddings import CHUNK, Embedder
from pipeline.mining.exact_search import prepared, products
from pipeline.mining.topk import Positions, Ranking, RunningTop, stacked

QUERY_BLOCK = 4_096
"""Queries searched at once in a block of passages: faiss's own block size."""

PASSAGE_BLOCK_BYTES = 1 << 29
"""Bytes of passage embeddings searched at once. Each block is searched anew and merged: fewer blocks cost less."""


class Nearest:
    """Exact cosine search over embeddings, one block of passages at a time; only the best so far are kept."""

    def __init__(self, embedder: Embedder, passages: Sequence[str], subset: Positions | None = None) -> None:
        """Search `passages`, or only those at `subset`; the results are then indices into `subset`."""
        self._embedder, self._passages = embedder, embedder.vectors(passages, "passage")
        self._subset = np.arange(len(passages)) if subset is None else subset

    def search(self, queries: Sequence[str], depth: int, rows: Positions | None = None) -> Ranking:
        """Return the `depth` nearest passages of each query, or of the queries at `rows`.

        All queries are embedded together, whichever are searched, because the batch affects an embedding's last bits.
        Memory grows with rows x depth, not with the number of passages.
        """
        vectors = self._embedder.vectors(queries, "query")
        rows = np.arange(len(queries)) if rows is None else rows
        starts = range(0, len(rows), QUERY_BLOCK)
        tops = [RunningTop(min(QUERY_BLOCK, len(rows) - start), depth) for start in starts]
        size = max(1, PASSAGE_BLOCK_BYTES // (4 * self._passages.shape[1]))
        blocks = range(0, len(self._subset), size)
        with bar("nearest passages", len(blocks) * len(starts)) as moving:
            for offset in blocks:
                block = prepared(self._passages.take(self._subset[offset : offset + size]))
                for start, top in zip(starts, tops, strict=True):
                    top.add(*block.best(vectors.take(rows[start : start + QUERY_BLOCK]), depth), offset)
                    moving.advance()
                del block  # before the next one is read
        return stacked([top.ranking() for top in tops], depth)

    def score(self, queries: Sequence[str], query: Positions, passage: Positions) -> npt.NDArray[np.float32]:
        """Return the cosines (pairs,) of `queries[query[i]]` and passage `passage[i]`."""
        vectors = self._embedder.vectors(queries, "query")
        scores = np.empty(len(query), np.float32)
        for start in range(0, len(query), CHUNK):
            part = slice(start, start + CHUNK)
            left, right = vectors.take(query[part]), self._passages.take(self._subset[passage[part]])
            scores[part] = products(left, np.arange(len(left)), right, np.arange(len(right)))
        return scores
