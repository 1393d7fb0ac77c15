"""A split's distinct questions and passages as numbers, and their judgements. Knows no first stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, count

import numpy as np

from pipeline.core.records import PairRows, Split, ends_with_query, fold
from pipeline.mining.leaks import positive_folds
from pipeline.mining.topk import Positions


@dataclass(slots=True)
class Corpus:
    """Distinct passages: texts with the same `key` are one passage, stored as the text that occurs first.

    A first stage searches the first `searched` passages. The others are negatives that a source lists: they occur only
    in the rows of the questions that list them.
    """

    key: Callable[[str], str]
    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    searched: int = 0
    _positions: dict[str, int] = field(default_factory=dict)
    _exact: dict[str, int] = field(default_factory=dict)
    """Text as added → position. Most texts are looked up again, and computing a key is slower than this lookup."""
    _numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, split: Split, key: Callable[[str], str]) -> Corpus:
        """Collect the split's corpus, then answers and listed negatives it lacks; ids are the source's or `p000001`…"""
        corpus, taken = cls(key), set(split.corpus_ids or [])
        ids = split.corpus_ids or [f"p{number:06d}" for number in range(1, len(split.corpus) + 1)]
        for text, identifier in zip(split.corpus, ids, strict=True):
            corpus.add(text, identifier)
        for dropped, kept in split.aliases.items():
            corpus._numbers.setdefault(dropped, corpus.numbered(kept))
        fresh = (name for number in count(len(split.corpus) + 1) if (name := f"p{number:06d}") not in taken)
        parts = parts_of(split)
        for text in chain.from_iterable(part.answers for part in parts):
            if text not in corpus:
                corpus.add(text, next(fresh))
        corpus.searched = len(corpus.texts)
        for text in chain.from_iterable(chain.from_iterable(part.negatives or [] for part in parts)):
            if text not in corpus:
                corpus.add(text, next(fresh))
        return corpus

    def __contains__(self, text: str) -> bool:
        return text in self._exact or self.key(text) in self._positions

    def add(self, text: str, identifier: str) -> None:
        """Add a text under `identifier`; if its passage is already present, `identifier` becomes another id of it."""
        position = self._positions.setdefault(self.key(text), len(self.texts))
        self._exact[text] = position
        self._numbers.setdefault(identifier, position)
        if position == len(self.texts):
            self.texts.append(text)
            self.ids.append(identifier)

    def numbered(self, identifier: str) -> int:
        """Return the position of the passage with this id, or -1."""
        return self._numbers.get(identifier, -1)

    def searched_ids(self) -> dict[str, int]:
        """Map every id of a searched passage to its position; ids of one text share a position."""
        return {identifier: position for identifier, position in self._numbers.items() if 0 <= position < self.searched}

    def position(self, text: str) -> int:
        """Return the position of a text that was added."""
        position = self._exact.get(text)
        return self._positions[self.key(text)] if position is None else position

    def folded_among(self, forms: set[str]) -> set[int]:
        """Return the positions of the passages whose folded text is among `forms`."""
        if self.key is fold:
            return {position for form in forms if (position := self._positions.get(form)) is not None}
        return {position for position, text in enumerate(self.texts) if fold(text) in forms}


@dataclass(slots=True)
class Questions:
    """Distinct questions of one part, in order of first occurrence, with the judgements of each.

    `judged[q]` maps passage position → label, in the order of the source. `given` holds questions for which the source
    lists negatives. `itself[q]` is the position of the passage that is the question itself, or -1. `sizes[q]` is the
    number of source rows; over all questions, `merged` of these rows repeat a pair. `contradicted` holds the pairs
    (question, position) with two labels. `ids[q]` is the first of a question's ids, `aliases` maps the others to q.
    """

    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    judged: list[dict[int, float]] = field(default_factory=list)
    given: set[int] = field(default_factory=set)
    itself: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    merged: int = 0
    contradicted: set[tuple[int, int]] = field(default_factory=set)

    def hidden(self, question: int, positives: list[int]) -> int:
        """Return the position of the passage that is the question itself, or -1 for none or for a positive."""
        itself = self.itself[question]
        return -1 if itself in positives else itself

    def forget_negatives(self, positives: dict[int, list[int]], threshold: float) -> None:
        """Drop the negatives that are `positives` (question → positions) in rows outside all parts."""
        for question, positions in positives.items():
            judged = self.judged[question]
            wrong = {position for position in positions if judged.get(position, threshold) < threshold}
            for position in wrong:
                del judged[position]
                self.contradicted.add((question, position))
            if wrong and all(label >= threshold for label in judged.values()):
                self.given.discard(question)

    def positives(self, threshold: float) -> list[list[int]]:
        """Return the positions of each question's positives."""
        return [[p for p, label in judged.items() if label >= threshold] for judged in self.judged]


def parts_of(split: Split) -> list[PairRows]:
    """Return the train, validation and dev parts, as far as the split has them."""
    return [part for part in (split.train, split.validation, split.dev) if part is not None]


def questions_of(part: PairRows, corpus: Corpus, prefix: str, *, by_id: bool) -> Questions:
    """Collect the distinct questions of a part.

    A question is identified by its id if the source has ids and `by_id` is set, else by its text, compared as the
    corpus compares texts. A pair that occurs twice keeps its highest label, so no listed negative is also a positive.
    """
    numbers: dict[str, int] = {}
    listed: set[tuple[int, int]] = set()  # (question, position) of listed negatives that are no row's answer so far
    found = Questions()
    for row, text in enumerate(part.questions):
        name = part.question_ids[row] if by_id and part.question_ids is not None else corpus.key(text)
        number = numbers.setdefault(name, len(numbers))
        if number == len(found.sizes):
            found.sizes.append(0)
            found.judged.append({})
            found.texts.append(text)
            found.itself.append(_itself(text, None if part.question_ids is None else part.question_ids[row], corpus))
            found.ids.append(f"{prefix}{number + 1:06d}" if part.question_ids is None else part.question_ids[row])
            found.groups += [] if part.groups is None else [part.groups[row]]
        elif part.question_ids is not None and part.question_ids[row] != found.ids[number]:
            found.aliases[part.question_ids[row]] = number
        found.sizes[number] += 1
        judged, answer = found.judged[number], corpus.position(part.answers[row])
        label = 1.0 if part.labels is None else part.labels[row]
        if (number, answer) in listed:
            listed.remove((number, answer))
        else:
            found.merged += answer in judged
        before = judged.get(answer, label)
        if label != before:
            found.contradicted.add((number, answer))
        judged[answer] = max(label, before)
        for negative in part.negatives[row] if part.negatives is not None else ():
            found.given.add(number)
            position = corpus.position(negative)
            if position not in judged:
                listed.add((number, position))
            if judged.setdefault(position, 0.0) != 0.0:
                found.contradicted.add((number, position))
    return found


def _itself(text: str, identifier: str | None, corpus: Corpus) -> int:
    """Return the position of the passage that is the question itself, or -1.

    It has the question's text or, in a collection, the question's id and a text that ends with the question's text: a
    title may precede it.
    """
    if text in corpus:
        return corpus.position(text)
    same_id = -1 if identifier is None else corpus.numbered(identifier)
    return same_id if same_id >= 0 and ends_with_query(corpus.texts[same_id], text) else -1


def elsewhere(questions: Questions, split: Split, corpus: Corpus, threshold: float) -> dict[int, list[int]]:
    """Map each question to its positives in rows outside all parts: they become neither training rows nor negatives."""
    rows, found = _unused(split), dict[int, list[int]]()
    asked = {corpus.key(question) for question in rows.questions}
    number = {key: q for q, text in enumerate(questions.texts) if (key := corpus.key(text)) in asked} if asked else {}
    for row, (question, answer) in enumerate(zip(rows.questions, rows.answers, strict=True)):
        q = number.get(corpus.key(question))
        if q is not None and answer in corpus and (rows.labels is None or rows.labels[row] >= threshold):
            found.setdefault(q, []).append(corpus.position(answer))
    return found


def _unused(split: Split) -> PairRows:
    return PairRows([], [], []) if split.unused is None else split.unused


def train_corpus(split: Split, train: PairRows, corpus: Corpus, threshold: float, *, drop_leaks: bool) -> Positions:
    """Return the positions of the passages that training negatives may come from, in corpus order.

    These are all searched passages except answers that no row of `train` has and, with `drop_leaks`, held-out
    positives. Without a corpus of the user's own, these are the training answers.
    """
    kept = {corpus.position(answer) for answer in train.answers}
    foreign = {corpus.position(answer) for part in parts_of(split) for answer in part.answers}
    foreign |= {corpus.position(answer) for answer in _unused(split).answers if answer in corpus}
    foreign -= kept
    if drop_leaks:
        held_out = (part for part in parts_of(split) if part is not split.train)
        foreign |= corpus.folded_among(positive_folds(held_out, threshold))
    return np.array([p for p in range(corpus.searched) if p not in foreign], np.int64)
