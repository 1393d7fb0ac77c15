"""Training rows of a cross-encoder: judged pairs, then mined and drawn negatives. Knows no files and no source.

The rule for hard negatives is that of sentence-transformers' `mine_hard_negatives`; a test compares the rows with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from pipeline.config.data import MiningConfig
from pipeline.core.records import LabelledPairs
from pipeline.mining.judged import Corpus, Questions
from pipeline.mining.negatives import Pairs, hard_negatives, joined, question_seeds, random_negatives
from pipeline.mining.topk import FirstStage, Positions

CELLS = 1 << 24
"""Ranks held at once (128 MiB), in whole blocks of `BLOCK` questions."""

BLOCK = 4_096
"""Questions that a dense search multiplies at once. Searches over parts that are whole blocks give the same results as
one search over all."""


def training_rows(
    questions: Questions, others: dict[int, list[int]], corpus: Corpus, minable: Positions, stage: FirstStage,
    config: MiningConfig, threshold: float,
) -> tuple[LabelledPairs, dict[str, Any]]:  # fmt: skip
    """Return the training rows of every question, and their counts.

    `others` maps a question to positives that become neither rows nor negatives.
    """
    positives = questions.positives(threshold)
    given = questions.given | {
        q for q, judged in enumerate(questions.judged) if any(label < threshold for label in judged.values())
    }
    numbers = [q for q, own in enumerate(positives) if own and q not in given]
    mined = _MinedQuestions.of(numbers, questions, positives, others, len(corpus.texts))
    hard = _hard_negatives(mined, minable, stage, config)
    seeds = question_seeds(mined.texts, config.seed, "random")
    drawn = random_negatives(minable, mined.excluding(hard), config.random_negatives, seeds)
    # Labels outside [0, 1] are relevance grades, which binary cross-entropy cannot take: they become 1 or 0.
    graded = any(not 0 <= label <= 1 for judged in questions.judged for label in judged.values())
    own = [
        (q, p, float(label >= threshold) if graded else label)
        for q, judged in enumerate(questions.judged)
        for p, label in sorted(judged.items(), key=lambda item: item[1] < threshold)
    ]
    question = np.concatenate(
        [np.array([q for q, _, _ in own], np.int64), mined.numbers[hard[0]], mined.numbers[drawn[0]]]
    )
    passage = np.concatenate([np.array([p for _, p, _ in own], np.int64), hard[1], drawn[1]])
    label = np.concatenate([np.array([x for _, _, x in own], np.float32), np.zeros(len(hard[0]) + len(drawn[0]))])
    order = np.argsort(question, kind="stable")
    used, compact = np.unique(passage[order], return_inverse=True)
    pairs = LabelledPairs(
        questions.texts,
        [corpus.texts[p] for p in used],
        question[order].astype(np.int32),
        compact.astype(np.int32),
        label[order].astype(np.float32),
    )
    count = sum(map(len, positives))
    negatives = np.bincount(question, minlength=len(positives)) - np.array([len(own) for own in positives])
    histogram = Counter(negatives.tolist())
    return pairs, {
        "rows": len(pairs),
        "questions": len(positives),
        "positives": count,
        "negatives": len(pairs) - count,
        "hard_negatives": len(hard[0]),
        "random_negatives": len(drawn[0]),
        "given_negatives": len(own) - count,
        "questions_with_given_negatives": len(given),
        "questions_mined": len(mined),
        "questions_with_hard_negatives": len(np.unique(hard[0])),
        "questions_without_negatives": histogram[0],
        "negatives_per_question": {str(size): histogram[size] for size in sorted(histogram)},
    }


def _alike(beside: Positions, wanted: int, most: int) -> Iterator[tuple[Positions, int]]:
    """Yield the ascending numbers of questions to search together, and the depth of their search.

    The depth is `wanted` plus the largest `beside` of these questions, but no more than `most`. `beside` is the number
    of each question's passages that may rank among the wanted ones, such as its positives. Questions with a similar
    `beside` are searched together, so that a question with far more than the others does not deepen their search.
    """
    # Bands of `beside` end at 1, 2, 4, 8 … times `wanted`: no question's depth is more than doubled.
    bands = np.ceil(np.log2(np.maximum(beside / wanted, 1))).astype(np.int64)
    for band in np.unique(bands):
        rows = np.flatnonzero(bands == band)
        depth = min(wanted + int(beside[rows].max()), most)
        size = BLOCK * max(1, CELLS // (BLOCK * depth))
        for start in range(0, len(rows), size):
            yield rows[start : start + size], depth


@dataclass(slots=True)
class _MinedQuestions:
    """Questions that get negatives, numbered from 0, and the passages that are no negatives of each.

    `numbers` (questions,) gives each one's number among all questions. `itself` (questions,) is the position of the
    passage that is the question itself, or -1. `others` are positives that become no rows; `others_listed` (questions,)
    counts them with repetitions. `most_rows` is the number of source rows of the question with most of them.
    """

    numbers: Positions
    texts: list[str]
    positives: Pairs
    itself: Positions
    others: Pairs
    others_listed: Positions
    most_rows: int

    @classmethod
    def of(
        cls, numbers: list[int], questions: Questions, positives: list[list[int]], others: dict[int, list[int]],
        passages: int,
    ) -> _MinedQuestions:  # fmt: skip
        """Collect the questions with these numbers; `passages` is the size of the corpus."""
        listed = [others.get(q, []) for q in numbers]
        return cls(
            np.array(numbers, np.int64),
            [questions.texts[q] for q in numbers],
            _pairs([positives[q] for q in numbers], passages),
            np.array([questions.hidden(q, positives[q]) for q in numbers], np.int64),
            _pairs(listed, passages),
            np.array([len(own) for own in listed], np.int64),
            max(questions.sizes, default=0),
        )

    def __len__(self) -> int:
        return len(self.texts)

    def beside(self, *, has_margin: bool) -> Positions:
        """Return for each question how many passages that are no negatives may rank among the wanted ones."""
        if has_margin:
            # Passages above the limit, such as the question itself, use up ranks: search as deep as
            # `mine_hard_negatives` does.
            return self.most_rows + self.others_listed
        return np.bincount(self.positives.question, minlength=len(self)) + (self.itself >= 0) + self.others_listed

    def excluding(self, hard: tuple[Positions, Positions]) -> Pairs:
        """Return all passages that are no negatives, and those of the (question, passage) arrays `hard`."""
        passages = self.positives.passages
        has_itself = np.flatnonzero(self.itself >= 0)
        more = Pairs.of(has_itself, self.itself[has_itself], passages), Pairs.of(*hard, passages)
        keys = np.concatenate([pairs.keys for pairs in (self.positives, self.others, *more)])
        return Pairs(np.unique(keys), passages)


def _pairs(listed: list[list[int]], passages: int) -> Pairs:
    """Return the pairs of each question, numbered by its place in `listed`, with the passages listed for it."""
    question = np.repeat(np.arange(len(listed)), [len(own) for own in listed])
    return Pairs.of(question, np.fromiter(chain.from_iterable(listed), np.int64), passages)


def _hard_negatives(
    mined: _MinedQuestions, minable: Positions, stage: FirstStage, config: MiningConfig
) -> tuple[Positions, Positions]:
    """Return the hard negatives as (mined question, corpus position) arrays."""
    if not (config.negatives and len(mined) and len(minable)):
        return joined([])
    searcher, seeds = stage(minable), question_seeds(mined.texts, config.seed, "hard")
    positives, passages = mined.positives, mined.positives.passages
    scores, has_margin = None, config.absolute_margin is not None or config.relative_margin is not None
    if has_margin:
        local = np.full(passages, -1, np.int64)
        local[minable] = np.arange(len(minable))
        scores = searcher.score(mined.texts, positives.question, local[positives.passage])
    found = []
    for rows, depth in _alike(mined.beside(has_margin=has_margin), config.range_max, len(minable)):
        ranking = searcher.search(mined.texts, depth, rows)
        ranking.indices = np.where(ranking.indices >= 0, minable[ranking.indices], -1).astype(np.int32)
        ranking.indices[ranking.indices == mined.itself[rows, None]] = -1
        if len(mined.others.keys):
            ranking.indices[mined.others.find(rows[:, None], ranking.indices.astype(np.int64))[0]] = -1
        inside = np.isin(positives.question, rows)
        own = Pairs.of(np.searchsorted(rows, positives.question[inside]), positives.passage[inside], passages)
        row, chosen = hard_negatives(ranking, own, None if scores is None else scores[inside], config, seeds[rows])
        found.append((rows[row], chosen))
    return joined(found)
