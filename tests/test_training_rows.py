"""Training rows of each question: their order, labels and counts, and how negatives are drawn."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from mining_data import CATS, DEV, config, random_pairs, rows, split, triples

from pipeline.config.data import Sampling
from pipeline.core.records import LabelledPairs
from pipeline.mining.miner import mine


def test_row_order_is_question_positives_hard_random() -> None:
    mined = mine(split(rows(CATS), rows(DEV)), config(negatives=1, random_negatives=1, dev_depth=3), Path("unused"))
    found = triples(mined.train)
    assert [label for _, _, label in found] == [1, 0, 0] * 4
    assert [q for q, _, _ in found] == [q for q, _ in CATS for _ in range(3)]
    hard = {q: p for q, p, _ in found[1::3]}
    # Both other answers that share a word have four terms besides stop words: a tie, broken by corpus order.
    assert hard["what do cats eat"] == "dogs eat bones and meat"
    assert hard["where do dogs sleep"] == "dogs eat bones and meat"
    assert all(len({p for q, p, _ in found if q == question}) == 3 for question, _ in CATS)
    assert mined.statistics["hard_negatives"] == mined.statistics["random_negatives"] == 4
    assert mined.statistics["negatives_per_question"] == {"2": 4}
    # The dev answer is in no training row, but it is the first candidate of the dev question.
    assert all(p != DEV[0][1] for _, p, _ in found)
    assert mined.dev.passages[mined.dev.candidates["q000001"][0]] == DEV[0][1]
    assert mined.statistics["first_stage"]["dev"]["recall"] == 1.0  # type: ignore[index]


def test_question_without_negatives_keeps_its_positives_and_is_counted() -> None:
    mined = mine(split(rows([*CATS, ("why", "unshared words only")]), rows(DEV)), config(negatives=1), Path("unused"))
    assert [row for row in triples(mined.train) if row[0] == "why"] == [("why", "unshared words only", 1.0)]
    assert mined.statistics["questions_without_negatives"] == 1


def test_question_that_is_its_own_positive_keeps_its_margin() -> None:
    pairs = [("cats purr", "cats purr"), ("dogs", "cats purr cats purr"), ("birds", "cats")]
    whole = split(rows(pairs), rows(DEV))
    free = mine(whole, config(negatives=3, absolute_margin=None), Path("unused"))
    held = mine(whole, config(negatives=3, absolute_margin=0.0), Path("unused"))
    negatives = [
        {p for q, p, label in triples(mined.train) if q == "cats purr" and not label} for mined in (free, held)
    ]
    assert negatives == [{"cats purr cats purr", "cats"}, {"cats"}]  # what outscores the positive is no negative


def test_labelled_negatives_become_rows_with_their_labels() -> None:
    questions = ["what do cats eat"] * 3 + ["what do dogs eat"]
    answers = ["cats eat fish", "cats eat stones", "cats drink", "dogs eat bones"]
    train = rows(list(zip(questions, answers, strict=True)), labels=[0.0, 1.0, 0.25, 1.0])
    dev = rows(
        [("what do birds eat", "birds eat seeds"), ("what do birds eat", "birds eat"), ("what do birds eat", "no")],
        labels=[3.0, 1.0, 0.0],
        groups=["birds"] * 3,
    )
    mined = mine(split(train, dev), config(negatives=1), Path("unused"), positive_threshold=1.0)
    cats = [row[1:] for row in triples(mined.train) if row[0] == "what do cats eat"]
    assert cats == [("cats eat stones", 1.0), ("cats eat fish", 0.0), ("cats drink", 0.25)]
    assert mined.statistics["given_negatives"] == 2
    assert mined.statistics["questions_with_given_negatives"] == 1
    assert [row[2] for row in triples(mined.train) if row[0] == "what do dogs eat"] == [1.0, 0.0]
    assert mined.dev.qrels == {"q000001": {"p000005": 3, "p000006": 1, "p000007": 0}}
    assert mined.dev.groups == {"q000001": "birds"}


def test_listed_negatives_become_rows_unless_positive_or_held_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    listed = rows(CATS[:2], negatives=[["a stone", "Cats eat fish AND mice", "birds eat seeds and worms"], []])
    mined = mine(split(listed, rows(DEV)), config(negatives=1), Path("unused"))
    assert [row[1:] for row in triples(mined.train)][:2] == [(CATS[0][1], 1.0), ("a stone", 0.0)]
    assert mined.statistics["leaks"]["listed_negatives_that_are_held_out_positives"] == 1  # type: ignore[index]
    assert "train: 1 listed negative is a positive of a held-out part: dropped" in caplog.text
    assert "a stone" not in mined.dev.passages.values()


def test_grades_outside_zero_to_one_become_binary_labels() -> None:
    train = rows([("q one", "a b"), ("q one", "c d"), ("q one", "e f")], labels=[3.0, 1.0, 2.0])
    mined = mine(split(train, rows(DEV)), config(), Path("unused"), positive_threshold=2.0)
    assert triples(mined.train) == [("q one", "a b", 1.0), ("q one", "e f", 1.0), ("q one", "c d", 0.0)]
    train.labels = [1.0, -1.0, 0.0]
    mined = mine(split(train, rows(DEV)), config(), Path("unused"))
    assert triples(mined.train) == [("q one", "a b", 1.0), ("q one", "c d", 0.0), ("q one", "e f", 0.0)]


SAMPLED = {"negatives": 2, "random_negatives": 2, "range_min": 1, "range_max": 20, "sampling": Sampling.random}


def negatives_by_question(pairs: LabelledPairs) -> dict[str, list[str]]:
    """Return the negatives of each question in the order of its rows."""
    negatives: dict[str, list[str]] = {}
    for question, passage, label in triples(pairs):
        if not label:
            negatives.setdefault(question, []).append(passage)
    return negatives


def test_random_sampling_depends_on_the_seed() -> None:
    whole = split(rows(random_pairs(5, 80)), rows(random_pairs(6, 4)))
    first, again, other = (mine(whole, config(**SAMPLED, seed=seed), Path("unused")) for seed in (1, 1, 2))
    assert triples(first.train) == triples(again.train) != triples(other.train)


def test_random_sampling_draws_every_rank_of_the_range() -> None:
    whole = split(rows(random_pairs(5, 80)), rows(random_pairs(6, 4)))
    ranked = negatives_by_question(mine(whole, config(negatives=20, range_max=20), Path("unused")).train)
    ranks = []
    for question, drawn in negatives_by_question(mine(whole, config(**SAMPLED, seed=1), Path("unused")).train).items():
        assert len(set(drawn)) == 4
        hard = [ranked[question].index(p) for p in drawn[:2]]
        assert hard == sorted(hard) and hard[0] >= 1
        ranks += hard
    assert set(ranks) == set(range(1, 20))


def test_random_draws_of_a_question_do_not_depend_on_other_questions() -> None:
    train, dev = rows(random_pairs(5, 80)), rows(random_pairs(6, 4))
    fewer = rows(list(zip(train.questions, train.answers, strict=True))[:40])
    whole = mine(split(train, dev), config(**SAMPLED, seed=1), Path("unused"))
    part = mine(split(fewer, dev, extra=train.answers), config(**SAMPLED, seed=1), Path("unused"))
    questions = set(fewer.questions)
    assert triples(part.train) == [row for row in triples(whole.train) if row[0] in questions]
    assert len(questions) < len(set(train.questions))


@pytest.mark.parametrize("sampling", Sampling)
def test_range_max_beyond_the_corpus_searches_the_whole_corpus(sampling: Sampling) -> None:
    train, dev = rows(random_pairs(5, 80)), rows(random_pairs(6, 4))
    corpus = len(set(train.answers + dev.answers))
    whole, beyond = (
        mine(split(train, dev), config(sampling=sampling, range_max=size, dev_depth=size), Path("unused"))
        for size in (corpus, 2**31)  # columns that no memory holds
    )
    assert triples(beyond.train) == triples(whole.train)
    assert beyond.dev == whole.dev and max(map(len, whole.dev.candidates.values())) > 20
