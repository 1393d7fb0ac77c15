"""Token ids of many texts. Wraps the tokenizers library; a word is tokenised once and its tokens are then looked up.

Where a tokenizer first splits at spaces, a text's tokens are those of its words, and a few words make up most of any
text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from pipeline.inputs.pair_template import Ints, plain

MOST_WORDS, MOST_CHARACTERS = 2**17, 2**23
"""Words and characters that an encoder remembers before it forgets all of them: some 30 MB, and more words than most
collections repeat."""

JOINED = 128
"""Number of new words that are joined into one text for tokenisation."""

Flat = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]


def encoder_of(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Return the encoder of a tokenizer's current state, with the words it has seen for earlier callers."""
    return _encoder(tokenizer.backend_tokenizer.to_str())


@lru_cache(maxsize=2)
def _encoder(state: str) -> Encoder:
    return Encoder(plain(state))


class _Numbers(dict[str, int]):
    """Words and their numbers, in the order of their first lookup."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


class Encoder:
    """Turns texts into token ids as its tokenizer does, without special tokens, truncation or padding.

    Not thread-safe.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._by_words = splits_at_spaces(backend)
        self._forget()

    def _forget(self) -> None:
        self._number = _Numbers()
        self._characters = 0
        self._ids, self._lengths = np.zeros(0, np.int32), np.zeros(0, np.int64)

    def __call__(self, texts: Sequence[str]) -> Flat:
        """Return the ids of all texts one after another, (tokens,), and how many each text has, (texts,)."""
        if not self._by_words:
            return self._encoded(texts)
        try:
            return self._looked_up(texts)
        except BaseException:
            self._forget()  # words may have a number but no tokens yet
            raise

    def _looked_up(self, texts: Sequence[str]) -> Flat:
        words = [text.split(" ") for text in texts]
        counts = np.fromiter(map(len, words), np.int64, len(words))
        numbers = np.fromiter(map(self._number.__getitem__, chain.from_iterable(words)), np.int64, int(counts.sum()))
        self._learn(list(islice(self._number, len(self._lengths), None)))
        lengths = self._lengths[numbers]
        ids = self._ids[spans(before(self._lengths)[numbers], lengths)]
        # Every text has at least one word, possibly an empty one.
        of_texts = np.add.reduceat(lengths, before(counts)) if len(words) else lengths
        if len(self._number) > MOST_WORDS or self._characters > MOST_CHARACTERS:
            self._forget()
        return ids, of_texts

    def _learn(self, words: list[str]) -> None:
        # Joined into long texts: one by one, words take the library several times as long.
        texts = [" ".join(words[start : start + JOINED]) for start in range(0, len(words), JOINED)]
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        counts = np.fromiter(map(len, encodings), np.int64, len(encodings))
        total = int(counts.sum())
        offsets = (start for encoding in encodings for start, _ in encoding.offsets)
        texts_begin = before(np.fromiter(map(len, texts), np.int64) + 1)
        begins = np.fromiter(offsets, np.int64, total) + np.repeat(texts_begin, counts)
        ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)) + 1)
        lengths = np.bincount(np.searchsorted(ends, begins, side="right"), minlength=len(words))
        self._ids, self._lengths = np.append(self._ids, _ids(encodings, total)), np.append(self._lengths, lengths)
        self._characters += int(ends[-1]) if len(words) else 0

    def _encoded(self, texts: Sequence[str]) -> Flat:
        """Tokenise all texts with the library, on its own threads."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        return _ids(encodings, int(lengths.sum())), lengths


def _ids(encodings: list[Encoding], total: int) -> npt.NDArray[np.int32]:
    # One list at a time: many at once trigger Python's garbage collector, which takes longer than all of this.
    return np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, total)


def before(counts: Ints) -> npt.NDArray[np.int64]:
    """Return the sum of all counts before each count."""
    return np.asarray(np.cumsum(counts) - counts, np.int64)


def spans(starts: Ints, counts: Ints) -> npt.NDArray[np.int64]:
    """Return the indices in spans of `counts` indices that begin at `starts`, one span after another."""
    return np.asarray(np.repeat(starts - before(counts), counts) + np.arange(counts.sum()), np.int64)


def splits_at_spaces(backend: Tokenizer) -> bool:
    """Return whether text on one side of a space never changes the tokens on the other, as in BERT's tokenizers.

    BERT's tokenizers normalise characters one by one, split at whitespace and split each word separately. An added
    token may contain whitespace or strip the whitespace beside it: with such a token the answer is no.
    """
    state = json.loads(backend.to_str())
    component_types = [(state[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    alone = all(
        not (token["lstrip"] or token["rstrip"] or any(map(str.isspace, token["content"])))
        for token in state["added_tokens"]
    )
    return alone and component_types == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
