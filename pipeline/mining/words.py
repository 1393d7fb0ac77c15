"""Splitting of texts into the words that BM25 counts. Knows no stems, no stop words and no lower case.

In scripts without spaces between words, a word is a pair of neighbouring characters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_WORD = re.compile(r"(?u)\b\w\w+\b")

UNSEEN = str.maketrans(dict.fromkeys("\u00ad\u200d\u200e\u200f\u2060\ufeff"))
"""Characters that may be written within a word but are no part of it: soft hyphens, joiners, marks of writing
direction. The non-joiner (U+200C) is not among them: it separates words, as Persian's suffixes require."""

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""Characters of scripts that put no spaces between words."""

_RUN = re.compile(f"[{UNSPACED}]+|[^{UNSPACED}]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")


@cache
def _marked_word() -> re.Pattern[str]:
    """Return a pattern of words whose letters may bear marks (vowel signs, accents): `\\w` alone ends at a mark."""
    # From U+20000 on, the only marks are variation selectors, which no word needs.
    marks = "".join(c for c in map(chr, range(0x20000)) if unicodedata.category(c) in ("Mn", "Mc"))
    return re.compile(rf"\w[\w{marks}]+")


def split_words(text: str) -> list[str]:
    """Return the words of a text in reading order; in scripts without spaces, pairs of neighbouring characters."""
    if text.isascii():
        return _WORD.findall(text)
    text = unicodedata.normalize("NFC", text.translate(UNSEEN))
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
