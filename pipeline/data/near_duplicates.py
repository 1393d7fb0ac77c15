"""Find near-duplicate texts by exact Jaccard similarity over word shingles. Pure; knows no files.

No hashing and no sampling: the prefix rule of set-similarity joins (Bayardo, Ma and Srikant, 2007; Xiao et al., 2008)
finds every pair above the threshold. Two sets of Jaccard similarity t or more must share one of the rarest
|s| - ceil(t |s|) + 1 shingles of each, so only sets that share such a shingle are compared.
"""

from __future__ import annotations

import math
from collections import Counter

WORDS = 5
"""Words per shingle; a shorter text is one shingle."""

THRESHOLD = 0.8
"""Lowest Jaccard similarity at which two texts count as near-duplicates."""


def shingles(text: str) -> set[str]:
    """Return every sequence of `WORDS` consecutive words of a folded text."""
    parts = text.split()
    if len(parts) <= WORDS:
        return {" ".join(parts)}
    return {" ".join(parts[start : start + WORDS]) for start in range(len(parts) - WORDS + 1)}


class NearDuplicates:
    """The texts kept so far, against which later texts are checked for near-duplicates."""

    def __init__(self, texts: list[str]) -> None:
        """Count the shingles of all `texts` (folded), to know which shingles are rare."""
        self._sets = [shingles(text) for text in texts]
        self._frequency = Counter(shingle for one in self._sets for shingle in one)
        self._kept: dict[str, list[int]] = {}

    def _prefix(self, row: int) -> list[str]:
        own = self._sets[row]
        size = len(own) - math.ceil(THRESHOLD * len(own)) + 1
        return sorted(own, key=lambda shingle: (self._frequency[shingle], shingle))[:size]

    def has(self, row: int) -> bool:
        """Return whether a kept text has a similarity of at least `THRESHOLD` to text `row`."""
        own = self._sets[row]
        candidates = {other for shingle in self._prefix(row) for other in self._kept.get(shingle, ())}
        for other in candidates:
            shared = len(own & self._sets[other])
            if shared >= THRESHOLD * (len(own) + len(self._sets[other]) - shared):
                return True
        return False

    def keep(self, row: int) -> None:
        """Keep text `row`, so that later texts are compared with it."""
        for shingle in self._prefix(row):
            self._kept.setdefault(shingle, []).append(row)
