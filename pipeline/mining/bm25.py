"""BM25 as a first stage. Knows nothing of labels, negatives or files.

Passages with equal scores keep their order, so a ranking does not depend on threads, batches or hashing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pipeline.core.progress import bar
from pipeline.core.records import Run
from pipeline.mining.stems import Stems
from pipeline.mining.topk import Positions, Ranking

K1, B = 0.9, 0.4
"""Parameters of Lucene's BM25 in BEIR's published baselines: chosen because published, not tuned on our own data."""

QUERIES = 256
"""Queries searched between two marks of progress."""

PROBED = 16
"""Passages, in multiples of `depth`, that a term needs to give the lower bound in `Bm25._best`.

More passages give a higher bound, but take longer to partition. If more passages than this reach the bound, they are
partitioned once more before they are sorted.
"""

ENTRIES = 1 << 20
"""Weights of postings computed at once."""

PAIRS = 65_536
"""Pairs scored at once."""


class Bm25:
    """BM25 search by Lucene's formula.

    A passage's score is the sum, over the terms t of the query, of t's count in the query times

        idf(t) · f / (f + K1 · (1 - B + B · length / mean length)),  idf(t) = ln(1 + (N - n + 0.5) / (n + 0.5)),

    where f is t's count in the passage, N the number of searched passages, n how many of them contain t, and a length
    counts every occurrence of a term. This weight does not depend on the query. It is computed once for each term and
    passage that contains it, and stored as postings: for each term, its passages and their weights (`_weights`).

    Terms are the English Snowball stems of all words of two letters or more, in any language, without English stop
    words. In a script without spaces between words, terms are pairs of neighbouring characters (a lone character stays
    alone), as in Lucene's CJKAnalyzer. Texts are normalised to NFC and keep their vowel signs and accents. A passage
    that shares no term with the query is not found, so a ranking may be shorter than `depth`.
    """

    def __init__(self, passages: Sequence[str] | Stems, subset: Positions | None = None) -> None:
        """Index `passages`, or only those at `subset`; the results are then indices into `subset`."""
        self._stems = passages if isinstance(passages, Stems) else Stems(passages)
        stems = self._stems
        flat, lengths = (stems.flat, stems.lengths) if subset is None else stems.part(subset)
        # Number the terms by first occurrence within the subset. Scores are summed in the order of these numbers, which
        # affects their last bits: so a score depends on the searched passages alone, not on the others in `stems`.
        first = np.full(len(stems), len(flat), np.int64)
        first[flat[::-1]] = np.arange(len(flat) - 1, -1, -1)  # the last assignment to a stem stays
        present = np.flatnonzero(first < len(flat))
        self._terms = np.full(len(stems), -1, np.int32)
        self._terms[present[first[present].argsort()]] = np.arange(len(present))
        self._postings = _weights(self._terms[flat], lengths, len(present))
        self._sums = np.zeros(len(lengths), np.float32)

    def _counts(self, queries: Sequence[str]) -> Any:
        """Return how often each query has each term, sparse (queries, terms); terms of no passage are left out."""
        tokens = [[term for stem in self._stems.of(query) if (term := self._terms[stem]) >= 0] for query in queries]
        starts = np.cumsum([0, *map(len, tokens)])
        terms = np.fromiter((term for row in tokens for term in row), dtype=np.int64, count=int(starts[-1]))
        counts = sparse.csr_array(
            (np.ones(len(terms), np.float32), terms, starts), shape=(len(tokens), self._postings.shape[0])
        )
        counts.sum_duplicates()
        return counts

    def search(self, queries: Sequence[str], depth: int, rows: Positions | None = None) -> Ranking:
        """Return the best `depth` passages that share a term with each query, or with each of the queries at `rows`."""
        asked = queries if rows is None else [queries[row] for row in rows]
        indices = np.full((len(asked), depth), -1, np.int32)
        scores = np.full((len(asked), depth), -np.inf, np.float32)
        with bar("BM25 search", len(asked)) as moving:
            for start in range(0, len(asked), QUERIES):
                counts = self._counts(asked[start : start + QUERIES])
                for row in range(counts.shape[0]):
                    of = slice(counts.indptr[row], counts.indptr[row + 1])
                    score, found = self._best(counts.indices[of], counts.data[of], depth)
                    indices[start + row, : len(found)], scores[start + row, : len(found)] = found, score
                moving.advance(counts.shape[0])
        return Ranking(indices, scores)

    def _best(
        self, terms: npt.NDArray[np.integer], counts: npt.NDArray[np.float32], depth: int
    ) -> tuple[npt.NDArray[np.float32], Positions]:
        """Return the scores and indices of one query's best `depth` passages, best first.

        The weights in the postings of the query's terms are added up in `_sums`. This is enough: a passage in none of
        these postings shares no term with the query, scores 0 and is not found. Every weight is positive, so the
        passages found are those with a sum above 0.

        Few of them are sorted. The passages of one term are some of all passages, so the `depth`-th best score among
        them is a lower bound of the `depth`-th best of all, and only passages that reach this bound can be among the
        best. The bound comes from the rarest term with at least `PROBED` x `depth` passages, because a rare term weighs
        most and its passages score high. If there is none, it comes from the most frequent term. If that has fewer than
        `depth` passages, there is no bound.

        Args:
            terms: Numbers of the query's distinct terms, ascending; every sum runs in this order.
            counts: How often the query has each of these terms.
        """
        starts, ends = self._postings.indptr[terms], self._postings.indptr[terms + 1]
        if not len(terms):
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        postings = [slice(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        passages = np.concatenate([self._postings.indices[own] for own in postings])
        weights = [count * self._postings.data[own] for count, own in zip(counts, postings, strict=True)]
        np.add.at(self._sums, passages, np.concatenate(weights))  # one after another, in the order of terms
        # The rarest term with `wanted` passages gives the lower bound.
        sizes = ends - starts
        wanted = min(PROBED * depth, int(sizes.max()))
        found: Positions
        if wanted >= depth:
            term = int(np.where(sizes >= wanted, sizes, len(self._sums) + 1).argmin())
            probe = self._sums[self._postings.indices[starts[term] : ends[term]]]
            found = np.flatnonzero(self._sums >= np.partition(probe, -depth)[-depth])
        else:
            found = np.flatnonzero(self._sums)
        scores = self._sums[found]
        if len(found) > PROBED * depth:
            kept = scores >= np.partition(scores, -depth)[-depth]
            found, scores = found[kept], scores[kept]
        self._sums.fill(0)
        best = np.argsort(-scores, kind="stable")[:depth]
        return scores[best], found[best]

    def score(self, queries: Sequence[str], query: Positions, passage: Positions) -> npt.NDArray[np.float32]:
        """Return the scores (pairs,) of `queries[query[i]]` against passage `passage[i]`; 0 without a shared term."""
        counts, passages = self._counts(queries), self._postings.T.tocsr()
        scores = np.empty(len(query), np.float32)
        for start in range(0, len(query), PAIRS):
            part = slice(start, start + PAIRS)
            scores[part] = counts[query[part]].multiply(passages[passage[part]]).sum(axis=1)
        return scores


def _weights(terms: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64], size: int) -> Any:
    """Return the postings: the weight of each term in each passage that contains it, sparse (terms, passages).

    `Bm25` gives the formula.

    Args:
        terms: Term numbers of all passages, one passage after another.
        lengths: How many of `terms` belong to each passage.
        size: Number of distinct terms.
    """
    kind = np.int32 if len(terms) < 2**31 else np.int64
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(kind)
    counts = sparse.csr_array((np.ones(len(terms), np.float32), terms, starts), shape=(len(lengths), size))
    counts.sum_duplicates()
    weights = counts.T.tocsr()
    del counts
    having = np.diff(weights.indptr)
    passages = len(lengths)
    idf = np.array([math.log(1 + (passages - n + 0.5) / (n + 0.5)) for n in having.tolist()], np.float32)
    norms = K1 * ((1 - B) + B * lengths / (lengths.mean() if len(terms) else 1.0))
    idf = np.repeat(idf, having)
    for start in range(0, len(idf), ENTRIES):
        part = slice(start, start + ENTRIES)
        count = weights.data[part]
        weights.data[part] = idf[part] * (count / (norms[weights.indices[part]] + count))
    return weights


def bm25_run(queries: Mapping[str, str], passages: Mapping[str, str], depth: int) -> Run:
    """Rank the passages of a collection by BM25: query id → the ids of its best `depth` passages → score."""
    ids = list(passages)
    ranking = Bm25(list(passages.values())).search(list(queries.values()), min(depth, len(passages)))
    run: Run = {}
    for row, query in enumerate(queries):
        found = ranking.indices[row] >= 0
        best = zip(ranking.indices[row][found], ranking.scores[row][found], strict=True)
        run[query] = {ids[index]: float(score) for index, score in best}
    return run
