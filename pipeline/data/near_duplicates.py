"""Texts that say nearly the same: exact Jaccard similarity over word shingles. Pure; knows no files.

No hashing and no sampling: the prefix rule of set-similarity joins (Bayardo, Ma and Srikant, 2007; Xiao et al., 2008)
finds every pair above the threshold. Two sets of Jaccard similarity t or more must share one of the rarest
|s| - ceil(t |s|) + 1 shingles of each, so only sets that share such a shingle are compared.
"""

from __future__ import annotations

import math
from collections import Counter

WORDS = 5
"""Words a shingle; a shorter text is one shingle."""

THRESHOLD = 0.8
"""Jaccard similarity from which two texts count as the same."""


def shingles(text: str) -> set[str]:
    """Every run of `WORDS` neighbouring words of an already folded text."""
    parts = text.split()
    if len(parts) <= WORDS:
        return {" ".join(parts)}
    return {" ".join(parts[start : start + WORDS]) for start in range(len(parts) - WORDS + 1)}


class NearDuplicates:
    """Texts kept so far, asked one by one whether a new one is nearly one of them."""

    def __init__(self, texts: list[str]) -> None:
        """Count shingles over all `texts` (folded), which fixes which of them are rare."""
        self._sets = [shingles(text) for text in texts]
        self._frequency = Counter(shingle for one in self._sets for shingle in one)
        self._kept: dict[str, list[int]] = {}

    def _prefix(self, row: int) -> list[str]:
        own = self._sets[row]
        size = len(own) - math.ceil(THRESHOLD * len(own)) + 1
        return sorted(own, key=lambda shingle: (self._frequency[shingle], shingle))[:size]

    def has(self, row: int) -> bool:
        """Whether a kept text is at least `THRESHOLD` similar to text `row`."""
        own = self._sets[row]
        candidates = {other for shingle in self._prefix(row) for other in self._kept.get(shingle, ())}
        for other in candidates:
            shared = len(own & self._sets[other])
            if shared >= THRESHOLD * (len(own) + len(self._sets[other]) - shared):
                return True
        return False

    def keep(self, row: int) -> None:
        """Let later texts be compared with text `row`."""
        for shingle in self._prefix(row):
            self._kept.setdefault(shingle, []).append(row)
