"""Small splits, configurations and readable rows for the tests of mining."""

from __future__ import annotations

import random

from pipeline.config.data import MiningConfig, Retriever
from pipeline.core.records import LabelledPairs, PairRows, Split

WORDS = [f"w{number}" for number in range(300)]

CATS = [
    ("what do cats eat", "cats eat fish and mice"),
    ("what do dogs eat", "dogs eat bones and meat"),
    ("where do cats sleep", "cats sleep on warm mats"),
    ("where do dogs sleep", "dogs sleep in kennels outside"),
]
DEV = [("what do birds eat", "birds eat seeds and worms")]


def rows(pairs: list[tuple[str, str]], **more: object) -> PairRows:
    """Return rows of (question, answer) pairs, numbered from line 1; `more` are other columns."""
    questions, answers = [q for q, _ in pairs], [a for _, a in pairs]
    return PairRows(questions, answers, list(range(1, len(pairs) + 1)), **more)  # type: ignore[arg-type]


def split(train: PairRows, dev: PairRows, validation: PairRows | None = None, extra: list[str] | None = None) -> Split:
    """Return a split whose corpus is the answers of all parts, then `extra` passages."""
    answers = train.answers + (validation.answers if validation else []) + dev.answers + (extra or [])
    return Split(train, dev, validation, list(dict.fromkeys(answers)))


def config(**keys: object) -> MiningConfig:
    """Return a configuration of BM25 with two hard negatives, changed by `keys`."""
    return MiningConfig(**{"retriever": Retriever.bm25, "negatives": 2, **keys})  # type: ignore[arg-type]


def triples(pairs: LabelledPairs) -> list[tuple[str, str, float]]:
    """Return training rows as (question, passage, label)."""
    return [
        (pairs.questions[q], pairs.passages[p], float(label))
        for q, p, label in zip(pairs.question, pairs.passage, pairs.label, strict=True)
    ]


def random_pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """Return questions that share words with their answers: repeated rows, shared answers, several positives."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        answer = draw.sample(WORDS, 12)
        question = f"{WORDS[number % 300]} " + " ".join(draw.sample(answer, 2) + draw.sample(WORDS, 5))
        pairs.append((question, " ".join(answer)))
        if number % 7 == 0:
            pairs.append((question, " ".join(draw.sample(WORDS, 11))))
        if number % 11 == 0:
            pairs.append(pairs[draw.randrange(len(pairs))])
        if number % 13 == 0:
            pairs.append((" ".join(draw.sample(WORDS, 6)), pairs[draw.randrange(len(pairs))][1]))
    return pairs
