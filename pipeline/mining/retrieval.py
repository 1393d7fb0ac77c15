"""Lexical and imported first stages: BM25 and a run made elsewhere. Knows nothing of labels, negatives or files.

Each is a `Searcher` over one list of passages. Equal scores stand in passage order, so a ranking does not depend on
threads, batches or hashing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import snowballstemmer
import torch
from bm25s.stopwords import STOPWORDS_EN
from scipy import sparse

from pipeline.core.progress import bar
from pipeline.core.records import Run
from pipeline.mining.topk import Positions, Ranking, RunningTop, best_columns, stacked

K1, B = 0.9, 0.4
"""Lucene's BM25 in BEIR's published baselines; chosen because published, not tuned on anything measured here."""

CELLS = 1 << 24
"""Scores held at once (64 MiB of float32)."""

PAIRS = 65_536
"""Pairs scored at once."""

PASSAGES = 4096
"""Passages read between two marks of progress."""

_WORD = re.compile(r"(?u)\b\w\w+\b")

_UNSEEN = str.maketrans(dict.fromkeys("\u00ad\u200d\u200e\u200f\u2060\ufeff"))
"""Written within a word or not, and no part of it: soft hyphens, joiners, marks of writing direction. The non-joiner
(U+200C) parts words, as Persian's suffixes want it."""

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""Characters of scripts that put no spaces between words."""

_RUN = re.compile(f"[{UNSPACED}]+|[^{UNSPACED}]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")


class Bm25:
    """BM25 as Lucene computes it: English stop words out, Snowball English stems, words of two letters or more.

    Where a script puts no spaces between words, pairs of neighbouring characters stand for them, as in Lucene's
    CJKAnalyzer. Texts are searched in NFC, their vowel signs and accents kept. A passage that shares no term with the
    query is not found, so a ranking may be shorter than asked.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self._stem = snowballstemmer.stemmer("english")
        self._terms: dict[str, int] = {}
        self._known: dict[str, int | None] = dict.fromkeys(STOPWORDS_EN)
        self._passages = len(passages)
        ids = []
        with bar("BM25 index", len(passages)) as moving:
            for start in range(0, len(passages), PASSAGES):
                part = passages[start : start + PASSAGES]
                ids += [self._tokens(passage, grow=True) for passage in part]
                moving.advance(len(part))
        shape = (len(self._terms), self._passages)
        if not self._terms:
            self._postings = sparse.csr_array(shape, dtype=np.float32)
            return
        index = bm25s.BM25(k1=K1, b=B, method="lucene")
        index.index((ids, self._terms), create_empty_token=False, show_progress=False)
        weights = index.scores
        # Columns of passages x terms are rows of terms x passages: the arrays stand as they are.
        self._postings = sparse.csr_array((weights["data"], weights["indices"], weights["indptr"]), shape=shape)

    def _tokens(self, text: str, grow: bool) -> list[int]:
        """Term ids in reading order. Ids follow first occurrence: bm25s' own, taken from a set, move with hashing."""
        tokens = []
        for word in _words(text.lower()):
            if word not in self._known:
                stem = self._stem.stemWord(word)
                if not grow and stem not in self._terms:
                    continue
                self._known[word] = self._terms.setdefault(stem, len(self._terms))
            term = self._known[word]
            if term is not None:
                tokens.append(term)
        return tokens

    def _counts(self, queries: Sequence[str]) -> Any:
        """Term counts (queries, terms), sparse."""
        tokens = [self._tokens(query, grow=False) for query in queries]
        starts = np.cumsum([0, *map(len, tokens)])
        terms = np.fromiter((term for row in tokens for term in row), dtype=np.int64, count=int(starts[-1]))
        counts = sparse.csr_array(
            (np.ones(len(terms), np.float32), terms, starts), shape=(len(tokens), len(self._terms))
        )
        counts.sum_duplicates()
        return counts

    def search(self, queries: Sequence[str], depth: int, rows: Positions | None = None) -> Ranking:
        """The best `depth` passages that share a term with each query, or with those at `rows`."""
        asked = queries if rows is None else [queries[row] for row in rows]
        size = max(1, CELLS // max(1, self._passages))
        parts = []
        with bar("BM25 search", len(asked)) as moving:
            for start in range(0, len(asked), size):
                chunk = asked[start : start + size]
                top = RunningTop(len(chunk), depth)
                if self._passages:
                    scores = (self._counts(chunk) @ self._postings).toarray()
                    top.add(*best_columns(torch.from_numpy(scores), depth, above=0.0), 0)
                parts.append(top.ranking())
                moving.advance(len(chunk))
        return stacked(parts, depth)

    def score(self, queries: Sequence[str], query: Positions, passage: Positions) -> npt.NDArray[np.float32]:
        """Scores (pairs,); 0 without a shared term."""
        counts, passages = self._counts(queries), self._postings.T.tocsr()
        scores = np.empty(len(query), np.float32)
        for start in range(0, len(query), PAIRS):
            part = slice(start, start + PAIRS)
            scores[part] = counts[query[part]].multiply(passages[passage[part]]).sum(axis=1)
        return scores


@cache
def _marked_word() -> re.Pattern[str]:
    """Words whose letters may bear marks (vowel signs, accents), which `\\w` leaves out and so would end a word."""
    # No mark stands from U+20000 on but variation selectors, which no word needs.
    marks = "".join(c for c in map(chr, range(0x20000)) if unicodedata.category(c) in ("Mn", "Mc"))
    return re.compile(rf"\w[\w{marks}]+")


def _words(text: str) -> list[str]:
    """Words of a text in reading order, and pairs of characters of what is written without spaces."""
    if text.isascii():
        return _WORD.findall(text)
    text = unicodedata.normalize("NFC", text.translate(_UNSEEN))
    word = _marked_word()
    if not _UNSPACED.search(text):
        return word.findall(text)
    words: list[str] = []
    for run in _RUN.findall(text):
        if _UNSPACED.match(run):
            words += [run[at : at + 2] for at in range(max(1, len(run) - 1))]
        else:
            words += word.findall(run)
    return words


def bm25_run(queries: Mapping[str, str], passages: Mapping[str, str], depth: int) -> Run:
    """BM25's best `depth` passages of a collection with their scores, by query id."""
    ids = list(passages)
    ranking = Bm25(list(passages.values())).search(list(queries.values()), min(depth, len(passages)))
    run: Run = {}
    for row, query in enumerate(queries):
        found = ranking.indices[row] >= 0
        best = zip(ranking.indices[row][found], ranking.scores[row][found], strict=True)
        run[query] = {ids[index]: float(score) for index, score in best}
    return run


class ImportedRun:
    """A ranking made elsewhere. What it does not list scores -inf: worse than everything it lists.

    Args:
        rankings: By query text, index into the passages and score of what the run lists.
    """

    def __init__(self, rankings: Mapping[str, Mapping[int, float]]) -> None:
        self._rankings = rankings

    def search(self, queries: Sequence[str], depth: int, rows: Positions | None = None) -> Ranking:
        """The run's best `depth` passages of each query, or of those at `rows`."""
        asked = queries if rows is None else [queries[row] for row in rows]
        indices = np.full((len(asked), depth), -1, np.int32)
        scores = np.full((len(asked), depth), -np.inf, np.float32)
        for row, query in enumerate(asked):
            best = sorted(self._rankings.get(query, {}).items(), key=lambda item: (-item[1], item[0]))[:depth]
            indices[row, : len(best)] = [index for index, _ in best]
            scores[row, : len(best)] = [score for _, score in best]
        return Ranking(indices, scores)

    def score(self, queries: Sequence[str], query: Positions, passage: Positions) -> npt.NDArray[np.float32]:
        """The run's own scores (pairs,)."""
        pairs = zip(query.tolist(), passage.tolist(), strict=True)
        found = [self._rankings.get(queries[q], {}).get(p, -np.inf) for q, p in pairs]
        return np.array(found, np.float32)
