"""Passages as numbered stems, which BM25 counts. Knows nothing of weights or rankings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import snowballstemmer
from bm25s.stopwords import STOPWORDS_EN

from pipeline.core.progress import bar
from pipeline.mining.topk import Positions
from pipeline.mining.words import split_words

PASSAGES = 4096
"""Passages read between two marks of progress."""


class Stems:
    """Passages as numbered stems, computed once and shared by searches over different subsets of the passages.

    `flat` (stems,) int32 holds the stem numbers of all passages, one passage after another; `lengths` (passages,) int64
    says how many belong to each passage. English stop words are left out, and so are words of one letter in scripts
    that put spaces between words. Stems are numbered in order of first occurrence.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        """Split all passages into words and number their stems."""
        self._stem = snowballstemmer.stemmer("english")
        self._numbers: dict[str, int] = {}
        self._known = _Known(STOPWORDS_EN, self._new)
        flat, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        with bar("BM25 index", len(passages)) as moving:
            for start in range(0, len(passages), PASSAGES):
                words = [split_words(passage.lower()) for passage in passages[start : start + PASSAGES]]
                numbers = np.fromiter(map(self._known.__getitem__, chain.from_iterable(words)), np.int32)
                kept = numbers >= 0
                of = np.repeat(np.arange(len(words)), [len(own) for own in words])
                flat.append(numbers[kept])
                lengths.append(np.bincount(of[kept], minlength=len(words)))
                moving.advance(len(words))
        self.flat, self.lengths = np.concatenate(flat), np.concatenate(lengths)
        self._starts = np.cumsum(self.lengths) - self.lengths

    def _new(self, word: str) -> int:
        """Return the number of a word's stem, which is a new number if the stem is new."""
        return self._numbers.setdefault(self._stem.stemWord(word), len(self._numbers))

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, text: str) -> list[int]:
        """Return the numbers of a text's stems in reading order, without stop words and stems that no passage has."""
        return [number for word in split_words(text.lower()) if (number := self._number(word)) >= 0]

    def _number(self, word: str) -> int:
        """Return the number of a word's stem, or -1 for a stop word or a stem that no passage has."""
        if word not in self._known:
            self._known[word] = self._numbers.get(self._stem.stemWord(word), -1)
        return self._known[word]

    def part(self, subset: Positions) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return `flat` and `lengths` of the passages at `subset` alone, in the order of `subset`."""
        lengths = self.lengths[subset]
        shifts = self._starts[subset] - (np.cumsum(lengths) - lengths)
        return self.flat[np.repeat(shifts, lengths) + np.arange(lengths.sum())], lengths


class _Known(dict[str, int]):
    """Word → number of its stem, or -1 for a stop word.

    `number` computes the entry at the first lookup of a word, so each distinct word is stemmed only once.
    """

    def __init__(self, stop_words: Iterable[str], number: Callable[[str], int]) -> None:
        super().__init__(dict.fromkeys(stop_words, -1))
        self._number = number

    def __missing__(self, word: str) -> int:
        self[word] = number = self._number(word)
        return number
