"""Training rows of a cross-encoder: judged pairs, then mined and drawn negatives. Knows no files and no source.

The rule for hard negatives is that of sentence-transformers' `mine_hard_negatives`; a test compares the rows with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.config.data import MiningConfig
from pipeline.core.records import LabelledPairs
from pipeline.mining.judged import Corpus, Questions
from pipeline.mining.negatives import Pairs, hard_negatives, joined, question_seeds, random_negatives
from pipeline.mining.topk import Positions, Searcher

CELLS = 1 << 24
"""Ranks held at once (128 MiB), in whole blocks of `BLOCK` questions."""

BLOCK = 4_096
"""Questions that a dense search multiplies at once. Searches over parts that are whole blocks give the same results as
one search over all."""

FirstStage = Callable[[Positions], Searcher]
"""Function that makes a searcher over the passages at the given positions of the corpus."""


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
    mined = np.array([q for q, own in enumerate(positives) if own and q not in given], np.int64)
    hard, drawn = _negatives(questions, mined, positives, others, len(corpus.texts), minable, stage, config)
    # Labels outside [0, 1] are relevance grades, which binary cross-entropy cannot take: they become 1 or 0.
    graded = any(not 0 <= label <= 1 for judged in questions.judged for label in judged.values())
    own = [
        (q, p, float(label >= threshold) if graded else label)
        for q, judged in enumerate(questions.judged)
        for p, label in sorted(judged.items(), key=lambda item: item[1] < threshold)
    ]
    question = np.concatenate([np.array([q for q, _, _ in own], np.int64), mined[hard[0]], mined[drawn[0]]])
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


def _negatives(
    questions: Questions,
    mined: Positions,
    positives: list[list[int]],
    others: dict[int, list[int]],
    passages: int,
    minable: Positions,
    stage: FirstStage,
    config: MiningConfig,
) -> tuple[tuple[Positions, Positions], tuple[Positions, Positions]]:
    """Return the hard and the random negatives of the `mined` questions.

    Each is a pair of arrays (number within `mined`, corpus position).
    """
    texts = [questions.texts[q] for q in mined]
    question = np.repeat(np.arange(len(mined)), [len(positives[q]) for q in mined])
    passage = np.array([p for q in mined for p in positives[q]], np.int64)
    known = Pairs.of(question, passage, passages)
    asks_other = np.repeat(np.arange(len(mined)), [len(others.get(q, ())) for q in mined.tolist()])
    other = np.array([p for q in mined.tolist() for p in others.get(q, ())], np.int64)
    barred = Pairs.of(asks_other, other, passages)
    itself = np.array([questions.hidden(q, positives[q]) for q in mined], np.int64)
    asks_itself = np.flatnonzero(itself >= 0)
    hard = np.empty(0, np.int64), np.empty(0, np.int64)
    if config.negatives and len(mined) and len(minable):
        searcher, seeds = stage(minable), question_seeds(texts, config.seed, "hard")
        has_margin = config.absolute_margin is not None or config.relative_margin is not None
        local = np.full(passages, -1, np.int64)
        local[minable] = np.arange(len(minable))
        scores = searcher.score(texts, known.question, local[known.passage]) if has_margin else None
        if has_margin:
            # Passages above the limit, such as the question itself, use up ranks: search as deep as
            # `mine_hard_negatives` does.
            beside = np.full(len(mined), max(questions.sizes))
        else:
            beside = np.bincount(question, minlength=len(mined)) + (itself >= 0)
        beside = beside + np.bincount(asks_other, minlength=len(mined))
        found = []
        for rows, depth in _alike(beside, config.range_max, len(minable)):
            ranking = searcher.search(texts, depth, rows)
            ranking.indices = np.where(ranking.indices >= 0, minable[ranking.indices], -1).astype(np.int32)
            ranking.indices[ranking.indices == itself[rows, None]] = -1
            if len(other):
                ranking.indices[barred.find(rows[:, None], ranking.indices.astype(np.int64))[0]] = -1
            inside = np.isin(known.question, rows)
            own = Pairs.of(np.searchsorted(rows, known.question[inside]), known.passage[inside], passages)
            row, chosen = hard_negatives(ranking, own, None if scores is None else scores[inside], config, seeds[rows])
            found.append((rows[row], chosen))
        hard = joined(found)
    excluded = Pairs.of(
        np.concatenate([question, hard[0], asks_itself, asks_other]),
        np.concatenate([passage, hard[1], itself[asks_itself], other]),
        passages,
    )
    seeds = question_seeds(texts, config.seed, "random")
    return hard, random_negatives(minable, excluded, config.random_negatives, seeds)
