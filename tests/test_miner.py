from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.data import Match, MiningConfig, Retriever, Sampling
from pipeline.core.errors import DataError
from pipeline.core.records import LabelledPairs, PairRows, Split, fold
from pipeline.mining import dense_search
from pipeline.mining.bm25 import Bm25
from pipeline.mining.exact_search import Plain, Rounded
from pipeline.mining.judged import Corpus
from pipeline.mining.miner import mine
from pipeline.mining.topk import Positions, Ranking
from tests.static_model import static_model

WORDS = [f"w{number}" for number in range(300)]


def rows(pairs: list[tuple[str, str]], **more: object) -> PairRows:
    questions, answers = [q for q, _ in pairs], [a for _, a in pairs]
    return PairRows(questions, answers, list(range(1, len(pairs) + 1)), **more)  # type: ignore[arg-type]


def split(train: PairRows, dev: PairRows, validation: PairRows | None = None, extra: list[str] | None = None) -> Split:
    answers = train.answers + (validation.answers if validation else []) + dev.answers + (extra or [])
    return Split(train, dev, validation, list(dict.fromkeys(answers)))


def config(**keys: object) -> MiningConfig:
    return MiningConfig(**{"retriever": Retriever.bm25, "negatives": 2, **keys})  # type: ignore[arg-type]


def recipe(folder: Path) -> MiningConfig:
    return MiningConfig(
        retriever=Retriever.embedding,
        path=str(folder),
        negatives=5,
        range_min=0,
        range_max=100,
        absolute_margin=0.0,
        sampling=Sampling.top,
        positive_match=Match.exact,
        drop_leaks=False,
        dev_depth=30,
    )


def triples(pairs: LabelledPairs) -> list[tuple[str, str, float]]:
    return [
        (pairs.questions[q], pairs.passages[p], float(label))
        for q, p, label in zip(pairs.question, pairs.passage, pairs.label, strict=True)
    ]


def random_pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """Questions that share words with their answers; repeated rows, shared answers, several positives."""
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


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"absolute_margin": 0.05, "range_min": 3, "negatives": 4, "range_max": 20},
        {"absolute_margin": None, "relative_margin": 0.1},
        {"absolute_margin": None, "range_min": 2},
    ],
    ids=["recipe", "absolute", "relative", "no-margin"],
)
@pytest.mark.parametrize("search", [Plain, Rounded])
def test_mined_rows_are_those_of_mine_hard_negatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, object], search: type[Plain] | type[Rounded]
) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    monkeypatch.setattr(dense_search, "prepared", search)
    folder = static_model(tmp_path / "model", WORDS)
    pairs = random_pairs(12, 400)
    settings = recipe(folder)
    for key, value in keys.items():
        setattr(settings, key, value)
    if settings.absolute_margin is not None or settings.relative_margin is not None:
        # Questions that are passages too: a margin takes these out of every ranking, and nobody's ranking grows by it.
        pairs += [(pairs[number][1], pairs[number + 1][1]) for number in range(0, 60, 6)]
    train = rows(pairs)
    mined = mine(split(train, rows(random_pairs(3, 5))), settings, tmp_path / "cache")
    reference = mine_hard_negatives(
        Dataset.from_dict({"question": train.questions, "answer": train.answers}),
        SentenceTransformer(str(folder), device="cpu"),
        range_min=settings.range_min,
        range_max=settings.range_max,
        absolute_margin=settings.absolute_margin,
        relative_margin=settings.relative_margin,
        num_negatives=settings.negatives,
        sampling_strategy="top",
        output_format="labeled-pair",
        verbose=False,
    )
    expected = list(zip(reference["question"], reference["answer"], map(float, reference["label"]), strict=True))
    assert len(expected) > len(pairs)
    assert triples(mined.train) == expected
    assert mined.statistics["rows"] == len(expected)


def test_dev_candidates_come_from_the_whole_corpus_with_positives_where_they_were_ranked(tmp_path: Path) -> None:
    folder = static_model(tmp_path / "model", WORDS)
    settings = recipe(folder)
    train, dev = rows(random_pairs(1, 200)), rows(random_pairs(2, 20))
    mined = mine(split(train, dev), settings, tmp_path / "cache", dev_name="gooaq-dev")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    corpus = list(dict.fromkeys(train.answers + dev.answers))
    questions = list(dict.fromkeys(dev.questions))
    scores = model.encode(questions, normalize_embeddings=True) @ model.encode(corpus, normalize_embeddings=True).T
    assert mined.dev.name == "gooaq-dev"
    assert list(mined.dev.queries) == [f"q{number:06d}" for number in range(1, len(questions) + 1)]
    for row, query in enumerate(mined.dev.queries):
        best = np.argsort(-scores[row], kind="stable")[:30]
        assert [mined.dev.passages[p] for p in mined.dev.candidates[query]] == [corpus[index] for index in best]
        assert mined.dev.candidates[query][0] == f"p{best[0] + 1:06d}"
    coverage = mined.statistics["first_stage"]["gooaq-dev"]  # type: ignore[index]
    found = [any(judged.get(p, 0) for p in mined.dev.candidates[q]) for q, judged in mined.dev.qrels.items()]
    assert coverage["queries_with_a_positive_found"] == sum(found)
    assert 0 < coverage["recall"] <= 1


CATS = [
    ("what do cats eat", "cats eat fish and mice"),
    ("what do dogs eat", "dogs eat bones and meat"),
    ("where do cats sleep", "cats sleep on warm mats"),
    ("where do dogs sleep", "dogs sleep in kennels outside"),
]
DEV = [("what do birds eat", "birds eat seeds and worms")]


def test_rows_stand_by_question_positives_then_hard_then_random() -> None:
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
    # No training row holds the dev answer; the dev question's candidates do, first.
    assert all(p != DEV[0][1] for _, p, _ in found)
    assert mined.dev.passages[mined.dev.candidates["q000001"][0]] == DEV[0][1]
    assert mined.statistics["first_stage"]["dev"]["recall"] == 1.0  # type: ignore[index]


def test_a_question_without_negatives_keeps_its_positives_and_is_counted() -> None:
    mined = mine(split(rows([*CATS, ("why", "unshared words only")]), rows(DEV)), config(negatives=1), Path("unused"))
    assert [row for row in triples(mined.train) if row[0] == "why"] == [("why", "unshared words only", 1.0)]
    assert mined.statistics["questions_without_negatives"] == 1


def test_leaks_are_dropped_or_only_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train = [
        *CATS,
        ("What do  BIRDS eat", "something else entirely eaten by birds"),
        ("name a bird feed", "Birds eat  seeds and worms"),
    ]
    dropped = mine(split(rows(train), rows(DEV)), config(), Path("unused"))
    assert dropped.statistics["leaks"] == {
        "train_rows_with_a_held_out_question": 1,
        "train_rows_with_a_held_out_positive": 1,
        "listed_negatives_that_are_held_out_positives": 0,
        "dropped": True,
    }
    assert "birds" not in " ".join(dropped.train.questions + dropped.train.passages).lower()
    kept = mine(split(rows(train), rows(DEV)), config(drop_leaks=False, positive_match=Match.exact), Path("unused"))
    assert kept.statistics["leaks"]["dropped"] is False  # type: ignore[index]
    assert kept.statistics["positives"] == 6
    logged = [of.message for of in caplog.records if of.name == "pipeline.mining.checks"]
    said = "train: 2 of 6 rows share a question (1) or a positive (1 more) with a held-out part: "
    remedy = "(data.group_column=<column> keeps rows of one passage together; fewer data.dev_queries drop fewer)"
    assert logged == [f"{said}dropped, 4 are left {remedy}", f"{said}kept, because mining.drop_leaks=false"]
    with pytest.raises(DataError, match="got 0 rows, none positive, after 1 that share a question or positive"):
        mine(split(rows(train[4:5]), rows(DEV)), config(), Path("unused"))


def test_a_row_that_leaks_by_question_and_by_answer_is_counted_once() -> None:
    leaks = mine(split(rows([*CATS, *DEV]), rows(DEV)), config(), Path("unused")).statistics["leaks"]
    assert leaks["train_rows_with_a_held_out_question"] == 1  # type: ignore[index]
    assert leaks["train_rows_with_a_held_out_positive"] == 0  # type: ignore[index]


def test_a_passage_that_is_the_question_is_no_negative_of_it_and_no_candidate() -> None:
    twins = [("how do cats purr", "why cats purr"), ("Why  cats purr", "how do cats purr"), ("cats sleep", "cats nap")]
    dev = [("do birds sing", "when birds sing"), ("when birds  sing", "Do birds sing"), ("fish", "fish")]
    settings = config(negatives=2, random_negatives=3, dev_depth=1, drop_leaks=False)
    mined = mine(split(rows(twins), rows(dev)), settings, Path("unused"))
    assert len(mined.train) > len(twins)
    assert all(fold(question) != fold(passage) for question, passage, _ in triples(mined.train))
    found = {
        mined.dev.queries[query]: [mined.dev.passages[passage] for passage in passages]
        for query, passages in mined.dev.candidates.items()
    }
    # What is judged a positive stays: the third question is its own answer.
    assert found == {"do birds sing": ["when birds sing"], "when birds  sing": ["Do birds sing"], "fish": ["fish"]}


def test_a_passage_of_the_question_s_id_is_the_question_under_a_title() -> None:
    pairs = [("cats purr", "cats are loud"), ("dogs bark", "dogs are loud"), ("loud", "loud noise")]
    train, dev = rows(pairs, question_ids=["a", "b", "c"]), rows(DEV, question_ids=["e"])
    whole = split(train, dev, extra=["A title. Cats  purr", "the dogs bark not", "loud cats"])
    whole.corpus_ids = ["1", "2", "3", "e", "a", "b", "c"]
    mined = mine(whole, config(negatives=6, drop_leaks=False), Path("unused"))
    negatives = {(question, passage) for question, passage, label in triples(mined.train) if not label}
    assert ("cats purr", "A title. Cats  purr") not in negatives
    # An id alone is chance, and so is a text that only begins like it.
    assert {("dogs bark", "the dogs bark not"), ("loud", "loud cats")} <= negatives


def test_what_is_not_judged_is_no_positive_at_a_threshold_of_zero() -> None:
    labelled = rows([("fish", "fish swim"), ("birds", "birds fly")], labels=[0.0, 0.0])
    train = rows(CATS, labels=[1.0] * len(CATS))
    whole = split(train, labelled, extra=["fish", "birds"])
    mined = mine(whole, config(dev_depth=5), Path("unused"), positive_threshold=0.0)
    found = {
        mined.dev.queries[query]: [mined.dev.passages[passage] for passage in passages]
        for query, passages in mined.dev.candidates.items()
    }
    assert found == {"fish": ["fish swim", "cats eat fish and mice"], "birds": ["birds fly"]}


def test_a_question_that_is_its_own_positive_keeps_its_margin() -> None:
    pairs = [("cats purr", "cats purr"), ("dogs", "cats purr cats purr"), ("birds", "cats")]
    whole = split(rows(pairs), rows(DEV))
    free = mine(whole, config(negatives=3, absolute_margin=None), Path("unused"))
    held = mine(whole, config(negatives=3, absolute_margin=0.0), Path("unused"))
    asked = [{p for q, p, label in triples(mined.train) if q == "cats purr" and not label} for mined in (free, held)]
    assert asked == [{"cats purr cats purr", "cats"}, {"cats"}]  # what outscores the positive is none


def test_validation_is_held_out_like_dev() -> None:
    mined = mine(split(rows(CATS), rows(DEV), rows(CATS[:1])), config(), Path("unused"))
    assert mined.validation is not None
    assert mined.validation.name == "validation"
    assert list(mined.validation.queries) == ["v000001"]
    assert CATS[0][0] not in mined.train.questions
    assert CATS[0][1] not in mined.train.passages


def test_what_answers_a_validation_question_is_searched_and_no_negative() -> None:
    validation = rows([("what do fish eat", "fish eat plants and mice")])
    whole = split(rows(CATS), rows(DEV), validation)
    whole.corpus.remove(validation.answers[0])  # as a corpus of the user's own may lack it
    mined = mine(whole, config(negatives=3, random_negatives=9, absolute_margin=None), Path("unused"))
    assert (mined.statistics["corpus_passages"], mined.statistics["train_corpus_passages"]) == (6, 4)
    assert mined.validation is not None and validation.answers[0] not in mined.train.passages
    assert validation.answers[0] in {mined.validation.passages[p] for p in mined.validation.candidates["v000001"]}


def test_a_question_is_trained_on_by_its_text_and_measured_by_its_id() -> None:
    train = rows([*CATS, ("what do cats eat", "cats eat birds")], question_ids=["a", "b", "c", "d", "f"])
    validation = rows([("who sings", "birds sing"), ("who sings", "choirs sing")], question_ids=["v", "w"])
    whole = split(train, rows(DEV, question_ids=["e"]), validation)
    mined = mine(whole, config(negatives=4, random_negatives=9, absolute_margin=None), Path("unused"))
    own = [row[1:] for row in triples(mined.train) if row[0] == "what do cats eat"]
    assert own[:2] == [(CATS[0][1], 1.0), ("cats eat birds", 1.0)]
    assert {passage for passage, _ in own[2:]} == {answer for _, answer in CATS[1:]}
    assert mined.validation is not None
    assert mined.validation.qrels == {"v": {"p000006": 1}, "w": {"p000007": 1}}


def test_texts_that_match_when_folded_are_one_passage() -> None:
    pairs = [*CATS, ("what do cats eat", "Cats eat  FISH and mice"), ("food of cats", "cats EAT fish and mice")]
    dev = rows([("what do birds eat", "cats sleep on warm mats"), *DEV], question_ids=["b", "b"])
    mined = mine(split(rows(pairs), dev), config(drop_leaks=False), Path("unused"))
    own = [(p, label) for q, p, label in triples(mined.train) if q == "what do cats eat"]
    assert own[0] == ("cats eat fish and mice", 1.0)
    assert [fold(p) for p, label in own].count("cats eat fish and mice") == 1
    assert mined.dev.qrels == {"b": {"p000003": 1, "p000007": 1}}
    exact = mine(split(rows(pairs), dev), config(drop_leaks=False, positive_match=Match.exact), Path("unused"))
    assert exact.statistics["corpus_passages"] == 7 and mined.statistics["corpus_passages"] == 5


def test_given_negatives_are_rows_as_they_are_and_grades_stay(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
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
    listed = rows(CATS[:2], negatives=[["a stone", "Cats eat fish AND mice", "birds eat seeds and worms"], []])
    mined = mine(split(listed, rows(DEV)), config(negatives=1), Path("unused"))
    assert [row[1:] for row in triples(mined.train)][:2] == [(CATS[0][1], 1.0), ("a stone", 0.0)]
    assert mined.statistics["leaks"]["listed_negatives_that_are_held_out_positives"] == 1  # type: ignore[index]
    assert "train: 1 listed negatives are positives of a held-out part: dropped" in caplog.text
    assert "a stone" not in mined.dev.passages.values()


def test_grades_beyond_one_become_positive_or_not_for_training() -> None:
    train = rows([("q one", "a b"), ("q one", "c d"), ("q one", "e f")], labels=[3.0, 1.0, 2.0])
    mined = mine(split(train, rows(DEV)), config(), Path("unused"), positive_threshold=2.0)
    assert triples(mined.train) == [("q one", "a b", 1.0), ("q one", "e f", 1.0), ("q one", "c d", 0.0)]
    train.labels = [1.0, -1.0, 0.0]
    mined = mine(split(train, rows(DEV)), config(), Path("unused"))
    assert triples(mined.train) == [("q one", "a b", 1.0), ("q one", "c d", 0.0), ("q one", "e f", 0.0)]


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="the training part must hold a positive"):
        mine(split(rows(DEV), rows(DEV)), config(), Path("unused"))


def test_training_rows_without_a_negative_are_refused() -> None:
    train = rows([("red cat", "a red cat"), ("old dog", "an old dog")], negatives=[["a red cat"], ["an old dog"]])
    with pytest.raises(
        DataError,
        match=r"^the training part must hold negatives, got none, after 2 pairs with two labels got the higher one\. "
        r"Add rows that are wrong answers: questions that come with their own are not mined\.$",
    ):
        mine(split(train, rows([("blue bird", "a blue bird")])), config(), Path("unused"))
    with pytest.raises(
        DataError, match=r"^the training part must hold negatives, got none\. Give more passages: data\.cor"
    ):
        mine(
            split(rows([("red cat", "a red cat")]), rows([("blue bird", "a blue bird")])),
            config(negatives=0, random_negatives=1),
            Path("x"),
        )


def test_rows_that_repeat_a_pair_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    again = [(f"{q.upper()} ", a.replace(" ", "  ")) for q, a in CATS]
    mined = mine(split(rows([*CATS, *again, *again]), rows([*DEV, *DEV])), config(), Path("unused"))
    assert mined.statistics["merged_rows"] == {"train": 8, "dev": 1} and mined.statistics["positives"] == 4
    said = [(of.levelname, of.message) for of in caplog.records if "repeat" in of.message]
    how = "repeat an earlier pair, as mining.positive_match=folded compares them"
    assert said == [
        ("WARNING", f"train: 8 of 12 rows {how}: 4 are used"),
        ("WARNING", f"dev: 1 of 2 rows {how}: 1 are used"),
    ]
    # What was listed as a negative is no repetition when a row has it as its answer; the next row is.
    (question, answer), (_, other), third, (_, wrong) = CATS
    given = [(question, answer), (question, other), (question, other), third]
    mined = mine(split(rows(given, negatives=[[other], [], [], [wrong]]), rows(DEV)), config(), Path("unused"))
    assert mined.statistics["merged_rows"] == {"train": 1, "dev": 0}
    caplog.clear()
    once = mine(split(rows(random_pairs(3, 60) + CATS[:1] * 2), rows(DEV)), config(), Path("unused"))
    assert once.statistics["merged_rows"]["dev"] == 0  # type: ignore[index]
    assert [of.levelname for of in caplog.records if "repeat" in of.message] == ["INFO"]


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({"absolute_margin": 1e9}, "Lower mining.absolute_margin=1e+09, or unset it."),
        ({"relative_margin": 0.999}, "Lower mining.relative_margin=0.999, or unset it."),
        ({"range_min": 90}, "Lower mining.range_min=90, or unset it."),
    ],
)
def test_hard_negatives_that_are_asked_for_and_not_found_are_warned_of(
    keys: dict[str, object], remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = split(rows(random_pairs(3, 60)), rows(DEV))
    mined = mine(whole, config(random_negatives=2, **keys), Path("unused"))
    asked, found = (mined.statistics[f"questions_{what}"] for what in ("mined", "with_hard_negatives"))
    assert f"train: {found} of {asked} mined questions have a hard negative. {remedy}" in caplog.text
    if "relative_margin" not in keys:  # it leaves a few
        with pytest.raises(DataError, match=f"hold negatives, got none. {re.escape(remedy)}$"):
            mine(whole, config(**keys), Path("unused"))
    caplog.clear()
    mine(whole, config(random_negatives=2), Path("unused"))
    assert "hard negative" not in caplog.text


def test_one_question_with_a_tenth_of_the_rows_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pairs = random_pairs(3, 60)
    many = [("N/A" if number % 4 == 0 else q, a) for number, (q, a) in enumerate(pairs)]
    mined = mine(split(rows(many), rows(DEV)), config(negatives=1), Path("unused"))
    own = sum(q == "N/A" for q, _, _ in triples(mined.train))
    assert f"train: {own} of {len(mined.train)} rows are of one question, 'N/A'. Leave it out if" in caplog.text
    caplog.clear()
    mine(split(rows(pairs), rows(DEV)), config(negatives=1), Path("unused"))
    assert "one question" not in caplog.text


def test_one_answer_to_a_tenth_of_the_questions_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pairs = random_pairs(3, 120)
    many = [(f"{q} {number}", "N/A" if number % 4 == 0 else a) for number, (q, a) in enumerate(pairs)]
    mine(split(rows(many), rows(DEV)), config(negatives=1), Path("unused"))
    said = f"train: {-(-len(pairs) // 4)} of {len(pairs)} questions have the answer 'N/A'. Leave their rows out if it"
    assert said in caplog.text
    caplog.clear()
    mine(split(rows(pairs), rows([("w1 w2", "yes"), ("w3 w4", "w5 yes")])), config(negatives=1), Path("unused"))
    assert "have the answer" not in caplog.text, "of few different ones each is right for many"


def test_a_first_stage_that_finds_hardly_a_positive_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pairs = random_pairs(3, 60)
    dev = [(q, f"zz{number} yy{number}") for number, (q, _) in enumerate(pairs[:30])]
    mine(split(rows(pairs[30:]), rows(dev)), config(), Path("unused"))
    said = (
        "dev: the first stage finds a right passage for 0 of 24 questions; what it misses counts as 0. BM25 finds only"
    )
    assert said in caplog.text


def test_what_leaks_names_what_would_help(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    few = [(f"is {word} good", ("yes", "no")[number % 2]) for number, word in enumerate(WORDS[:60])]
    with pytest.raises(DataError, match=r"They have 2 different answers: give passages that tell one question from "):
        mine(split(rows(few[:40]), rows(few[40:])), config(), Path("unused"))
    assert "dev_queries" not in caplog.text
    caplog.clear()
    pairs = random_pairs(3, 60)
    given = split(rows(pairs), rows([(q, f"{a} more") for q, a in pairs]))
    given.dev_file = "d.jsonl"
    with pytest.raises(DataError) as refused:
        mine(given, config(), Path("unused"))
    assert str(refused.value) == (
        f"the training part must hold a positive, got 0 rows, none positive, after {len(pairs)} that share a question "
        f"({len(pairs)}) or positive with data.dev_path=d.jsonl. Give it other questions, or remove the key to split "
        "some off the training rows."
    )
    given.dev = rows([(q, f"{a} more") for q, a in pairs[:30]])
    mine(given, config(), Path("unused"))
    assert "are left (leave them out of data.dev_path=d.jsonl to keep them)" in caplog.text
    assert "data.dev_queries" not in caplog.text


def test_a_pair_with_two_labels_has_the_higher_one_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pairs = [("red cat", "a red cat")] * 3 + [("red cat", "an old dog"), ("old dog", "an old dog")]
    train = rows(pairs, labels=[0.0, 1.0, 0.0, 0.0, 1.0])
    mined = mine(split(train, rows([("blue bird", "a blue bird")])), config(), Path("unused"))
    assert mined.statistics["contradicted_pairs"] == 1
    assert ("red cat", "a red cat", 1.0) in triples(mined.train)
    assert "train: 1 pairs have two labels: the higher one is used" in caplog.text


def test_a_first_stage_that_finds_nothing_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    train = rows([("red cat", "a red cat"), ("old dog", "an old dog")])
    other = [("fish", "swims"), ("bird", "flies")]
    with pytest.raises(
        DataError, match=r"^the first stage must find a passage for a question of dev, got none for 2 of 2 "
    ):
        mine(split(train, rows(other)), config(negatives=0, random_negatives=1), Path("unused"))
    mine(split(train, rows([*other, ("blue cat", "a blue cat")])), config(random_negatives=1), Path("unused"))
    assert (
        "dev: the first stage finds no passage for 2 of 3 questions. BM25 finds only passages that share a word: pass"
        in caplog.text
    )


def test_an_imported_run_ranks_by_the_datas_own_ids(tmp_path: Path) -> None:
    train = rows(CATS, question_ids=["a", "b", "c", "d"])
    whole = split(train, rows(DEV, question_ids=["e"]))
    whole.corpus_ids = ["A", "B", "C", "D", "E"]
    run = tmp_path / "run.trec"
    lines = ["a Q0 C 1 3 x", "a Q0 E 2 2.5 x", "a Q0 A 3 2 x", "a Q0 B 4 1 x", "e Q0 B 1 2 x", "e Q0 E 2 1 x"]
    run.write_text("\n".join(lines) + "\n")
    settings = config(retriever=Retriever.run, path=str(run), negatives=1, absolute_margin=0.0, dev_depth=2)
    mined = mine(whole, settings, tmp_path)
    # C outscores the positive A, E is a dev answer; b, c and d are not ranked.
    assert [row[1:] for row in triples(mined.train) if row[0] == CATS[0][0]] == [(CATS[0][1], 1.0), (CATS[1][1], 0.0)]
    assert mined.statistics["questions_without_negatives"] == 3
    assert mined.dev.candidates == {"e": ["B", "E"]}
    whole.dev.question_ids = ["z"]
    with pytest.raises(DataError, match=r"run\.trec must rank questions of this data, such as 'z', got 'a'"):
        mine(whole, settings, tmp_path)
    run.write_text("a Q0 X 1 3 x\nz Q0 X 1 3 x\n")
    with pytest.raises(DataError, match=r"run\.trec must rank passages of this data, such as 'A', got 'X'"):
        mine(whole, settings, tmp_path)


def test_an_imported_run_may_name_a_passage_by_any_id_of_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = rows(CATS, question_ids=["a", "b", "c", "d"])
    whole = split(train, rows(DEV, question_ids=["e"]))
    whole.corpus_ids, whole.aliases = ["A", "B", "C", "D", "E"], {"E2": "E"}
    whole.corpus.append(f" {DEV[0][1].upper()} ")
    whole.corpus_ids.append("E3")  # the same text, folded
    run = tmp_path / "run.trec"
    run.write_text("a Q0 C 1 3 x\ne Q0 E2 1 2 x\ne Q0 E 2 1 x\ne Q0 B 3 0.5 x\nz Q0 B 1 1 x\ne Q0 Z 4 0.1 x\n")
    settings = config(retriever=Retriever.run, path=str(run), negatives=1, dev_depth=2)
    mined = mine(whole, settings, tmp_path)
    assert mined.dev.candidates == {"e": ["E", "B"]}
    assert (
        "skipped 1 questions, and 1 ranked passages of the other questions: their ids are not used here" in caplog.text
    )
    assert "train: 3 of 4 questions have positives but no negative" in caplog.text
    run.write_text("a Q0 C 1 3 x\ne Q0 E3 1 2 x\n")
    assert mine(whole, settings, tmp_path).dev.candidates == {"e": ["E"]}
    caplog.clear()
    whole.dev = rows([*DEV, *DEV], question_ids=["e", "e2"])  # two ids of one question
    run.write_text("a Q0 C 1 3 x\ne Q0 E 1 2 x\ne2 Q0 B 1 2 x\n")
    assert mine(whole, settings, tmp_path).dev.candidates == {"e": ["B"], "e2": ["B"]}
    assert (
        "1 questions repeat another's text with a different ranking: the later ranking counts for both" in caplog.text
    )
    caplog.clear()
    run.write_text("a Q0 C 1 3 x\ne Q0 E 1 2 x\ne2 Q0 E 1 2 x\n")
    mine(whole, settings, tmp_path)
    assert "skipped" not in caplog.text


def test_an_id_that_is_a_passage_s_own_is_no_other_s(tmp_path: Path) -> None:
    whole = split(rows(CATS, question_ids=["a", "b", "c", "d"]), rows(DEV, question_ids=["e"]))
    whole.corpus_ids, whole.aliases = ["A", "B", "C", "D", "E"], {"B": "E"}
    run = tmp_path / "run.trec"
    run.write_text("a Q0 C 1 3 x\ne Q0 B 1 2 x\n")
    mined = mine(whole, config(retriever=Retriever.run, path=str(run), negatives=1), tmp_path)
    assert mined.dev.candidates == {"e": ["B"]} and mined.dev.passages["B"] == CATS[1][1]


def test_an_answer_beside_a_corpus_has_an_id_that_no_passage_has() -> None:
    whole = split(rows(CATS), rows(DEV))
    whole.corpus, whole.corpus_ids = ["cats and birds", "dogs and birds"], ["p000004", "p000003"]
    mined = mine(whole, config(dev_depth=9), Path("unused"))
    assert mined.statistics["corpus_passages"] == 7 and len(mined.dev.candidates["q000001"]) > 2
    texts = {mined.dev.passages[passage] for passage in mined.dev.candidates["q000001"]}
    assert len(texts) == len(mined.dev.candidates["q000001"]) and texts > {*whole.corpus, DEV[0][1]}
    assert mined.dev.passages["p000004"] == "cats and birds"


def test_random_sampling_draws_from_the_range_and_moves_with_the_seed_only() -> None:
    train, dev = rows(random_pairs(5, 80)), rows(random_pairs(6, 4))
    settings = {"negatives": 2, "random_negatives": 2, "range_min": 1, "range_max": 20, "sampling": Sampling.random}
    first = mine(split(train, dev), config(**settings, seed=1), Path("unused"))
    again = mine(split(train, dev), config(**settings, seed=1), Path("unused"))
    other = mine(split(train, dev), config(**settings, seed=2), Path("unused"))
    assert triples(first.train) == triples(again.train) != triples(other.train)
    top = mine(split(train, dev), config(negatives=20, range_max=20), Path("unused"))
    ranked: dict[str, list[str]] = {}
    for question, passage, label in triples(top.train):
        if not label:
            ranked.setdefault(question, []).append(passage)
    places = []
    by_question: dict[str, list[str]] = {}
    for question, passage, label in triples(first.train):
        if not label:
            by_question.setdefault(question, []).append(passage)
    for question, drawn in by_question.items():
        assert len(set(drawn)) == 4
        place = [ranked[question].index(p) for p in drawn[:2]]
        assert place == sorted(place) and place[0] >= 1
        places += place
    assert set(places) == set(range(1, 20)), "every rank of the range is drawn by some question"
    # A question's draw does not depend on which other questions are mined.
    fewer = rows(list(zip(train.questions, train.answers, strict=True))[:40])
    part = mine(split(fewer, dev, extra=train.answers), config(**settings, seed=1), Path("unused"))
    asked = set(fewer.questions)
    assert triples(part.train) == [row for row in triples(first.train) if row[0] in asked]
    assert len(asked) < len(set(train.questions))


@pytest.mark.parametrize("margin", [None, 0.0], ids=["free", "margin"])
@pytest.mark.parametrize("retriever", [Retriever.bm25, Retriever.embedding])
def test_a_question_of_many_positives_deepens_no_other_search_and_changes_no_row(
    retriever: Retriever, margin: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = random_pairs(5, 400)
    train = rows([("n/a" if number % 4 == 0 else q, a) for number, (q, a) in enumerate(pairs)])
    whole = split(train, rows(random_pairs(6, 4)))
    path = str(static_model(tmp_path / "model", WORDS)) if retriever is Retriever.embedding else None
    keys = {"negatives": 3, "random_negatives": 1, "range_max": 8, "sampling": Sampling.random, "dev_depth": 4}
    keyed = config(**keys, retriever=retriever, path=path, absolute_margin=margin)
    asked: list[tuple[int, int]] = []

    def counted(kind: type, search: Callable[..., Ranking]) -> None:
        def wrapped(self: object, queries: list[str], depth: int, of: Positions | None = None) -> Ranking:
            asked.append((len(queries) if of is None else len(of), depth))
            return search(self, queries, depth, of)

        monkeypatch.setattr(kind, "search", wrapped)

    counted(Bm25, Bm25.search)
    counted(dense_search.Nearest, dense_search.Nearest.search)
    monkeypatch.setattr("pipeline.mining.training_rows.CELLS", 6_000)
    monkeypatch.setattr("pipeline.mining.training_rows.BLOCK", 16)
    apart = mine(whole, keyed, tmp_path / "cache")
    searches = asked[:-1]  # the last is of the dev set
    questions = len({fold(question) for question in train.questions})
    assert sum(count for count, _ in searches) == questions
    assert all(count * depth <= 6_000 for count, depth in searches)
    if margin is None:
        (alone, deep), (_, ordinary) = sorted(searches)[:2]
        assert alone == 1 and deep > 100 and ordinary <= 16
    monkeypatch.setattr("pipeline.mining.training_rows._alike", lambda beside, wanted, most: [
        (np.arange(len(beside)), min(wanted + int(beside.max()), most))
    ])  # fmt: skip
    assert triples(mine(whole, keyed, tmp_path / "cache").train) == triples(apart.train)


@pytest.mark.parametrize("margin", [None, 0.0], ids=["free", "margin"])
def test_what_is_no_negative_takes_no_place_of_the_range(margin: float | None) -> None:
    """Positives, the question itself and what answers it elsewhere rank first: five others are left all the same.

    With a margin the question itself takes a place, as in `mine_hard_negatives`: it scores above the positive.
    """
    others = [f"{' '.join(WORDS[i : i + 5])} {name}" for name in ("ant", "cow", "elk") for i in range(9)]
    asked = {
        "ant bee": rows([("ant bee", f"ant bee {WORDS[i]}") for i in range(4)] + [("elk", f"elk {others[20]}")]),
        "cow dog": rows([("cow dog", "cow dog c"), ("elk", "cow dog f")]),
        "elk fox": rows([("elk fox", "elk fox i")]),
    }
    for question, train in asked.items():
        given = split(train, rows([("w298", "w298 w299")]), extra=["elk fox", *others])
        given.unused = rows([("cow dog", "cow dog f")])
        keys = {"negatives": 5, "range_max": 5, "random_negatives": 0, "absolute_margin": margin}
        found = triples(mine(given, config(**keys), Path("unused")).train)
        negatives = {p for q, p, label in found if q == question and not label}
        left = 4 if question == "elk fox" and margin is not None else 5
        assert len(negatives) == left and negatives <= set(others)


@pytest.mark.parametrize("sampling", Sampling)
def test_a_range_beyond_the_corpus_is_the_whole_corpus(sampling: Sampling) -> None:
    train, dev = rows(random_pairs(5, 80)), rows(random_pairs(6, 4))
    corpus = len(set(train.answers + dev.answers))
    whole, beyond = (
        mine(split(train, dev), config(sampling=sampling, range_max=size, dev_depth=size), Path("unused"))
        for size in (corpus, 2**31)  # columns that no memory holds
    )
    assert triples(beyond.train) == triples(whole.train)
    assert beyond.dev == whole.dev and max(map(len, whole.dev.candidates.values())) > 20


TEXT = st.text(alphabet="aAbB \tcé", min_size=1, max_size=8).filter(str.strip)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(PAIRS, PAIRS, st.sampled_from(Match), st.sampled_from(Sampling))
def test_no_negative_is_a_positive_and_nothing_of_dev_is_trained_on(
    train: list[tuple[str, str]], dev: list[tuple[str, str]], match: Match, sampling: Sampling
) -> None:
    key = fold if match is Match.folded else str
    keys = config(positive_match=match, sampling=sampling, negatives=3, random_negatives=3, range_max=10)
    # A word that all share: the first stage finds something for every question.
    train, dev = ([(f"word {q}", f"word {a}") for q, a in pairs] for pairs in (train, dev))
    try:
        mined = mine(split(rows(train), rows(dev)), keys, Path("unused"))
    except DataError as error:
        held = {fold(q) for q, _ in dev} | {fold(a) for _, a in dev}
        left = {(key(q), key(a)) for q, a in train if fold(q) not in held and fold(a) not in held}
        if "hold negatives" in str(error):  # every passage that is left is a positive of every question
            assert len(left) == len({q for q, _ in left}) * len({a for _, a in left})
        else:
            assert not left and "hold a positive" in str(error)
        return
    found = triples(mined.train)
    positives = {(key(q), key(a)) for q, a in train}
    assert all(((key(q), key(p)) in positives) == bool(label) for q, p, label in found)
    assert len({(key(q), key(p)) for q, p, _ in found}) == len(found)
    assert not {fold(q) for q, _, _ in found} & {fold(q) for q, _ in dev}
    assert not {fold(p) for _, p, _ in found} & {fold(a) for _, a in dev}
    assert mined.statistics["rows"] == len(found)
    for query, judged in mined.dev.qrels.items():
        assert any(judged.values()) and len(set(mined.dev.candidates[query])) == len(mined.dev.candidates[query])
        assert {*judged, *mined.dev.candidates[query]} <= set(mined.dev.passages)


def digests(folder: Path, name: str) -> str:
    """What BM25 and an embedding model mine, in one line; embeddings are made anew for each `name`."""
    whole = split(rows(random_pairs(5, 300)), rows(random_pairs(6, 20)))
    keys = {"negatives": 2, "random_negatives": 2, "sampling": Sampling.random}
    embedding = {"retriever": Retriever.embedding, "path": str(folder)}
    lines = []
    for keyed in (config(**keys), config(**keys, **embedding)):
        mined = mine(whole, keyed, folder.parent / name)
        # Not sorted by key: the order of queries and candidates is part of the result.
        text = repr((triples(mined.train), mined.dev, mined.statistics))
        lines.append(hashlib.sha256(text.encode()).hexdigest())
    return " ".join(lines)


def main() -> None:
    """The other process of the test below."""
    torch.set_num_threads(int(sys.argv[2]))
    print(digests(Path(sys.argv[1]), "there"))


def test_another_process_with_other_hashing_and_threads_mines_the_same(tmp_path: Path) -> None:
    folder = static_model(tmp_path / "model", WORDS)
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    threads = "1" if torch.get_num_threads() > 1 else "2"
    command = [sys.executable, "-c", "from tests.test_miner import main; main()", str(folder), threads]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.splitlines()[-1] == digests(folder, "here")


def test_statistics_are_json(tmp_path: Path) -> None:
    mined = mine(split(rows(CATS), rows(DEV)), config(), tmp_path)
    assert json.loads(json.dumps(mined.statistics)) == mined.statistics


def test_passages_in_no_part_are_searched_and_never_taught() -> None:
    train = rows([(f"{WORDS[i]} {WORDS[i + 1]}", f"{WORDS[i]} {WORDS[i + 2]} {WORDS[i + 3]}") for i in range(120)])
    dev = rows([("w200 w201", "w200 w202")])
    unused = ["w200 w201 w5 w6", "w7 w8 w9"]
    given = split(train, dev, extra=unused)
    given.unused = rows([("w300", text) for text in (*unused, "not in a corpus of the user's own")])
    mined = mine(given, config(negatives=3, random_negatives=5, range_max=100), Path("unread"))
    assert unused[0] in {mined.dev.passages[passage] for passage in mined.dev.candidates["q000001"]}
    assert not set(unused) & {mined.train.passages[passage] for passage in mined.train.passage}


@pytest.mark.parametrize("margin", [None, 0.0])
def test_a_positive_in_a_row_of_no_part_is_no_negative_of_its_question(margin: float | None) -> None:
    pairs = [(f"w{i} x{i}", f"w{i} y{i} common") for i in range(40)] + [("other", "w0 x0 common")]
    given = split(rows(pairs), rows([("w200 w201", "w200 w202")]))
    keys = {"negatives": 3, "random_negatives": 45, "absolute_margin": margin}

    def negatives() -> set[str]:
        train = mine(given, config(**keys), Path("unread")).train
        own = train.question == train.questions.index("w0 x0")
        return {train.passages[p] for p in train.passage[own & (train.label == 0)]}

    assert "w0 x0 common" in negatives()
    given.unused = rows([("W0  x0", "W0 x0 common"), ("nobody asks", "w0 y0 common"), ("w0 x0", "searched nowhere")])
    assert "w0 x0 common" not in negatives() and len(negatives()) == 39
    given.unused.labels = [0.0, 1.0, 1.0]
    assert "w0 x0 common" in negatives() and len(negatives()) == 40


@pytest.mark.parametrize("drop", [True, False])
def test_another_spelling_of_a_held_out_answer_is_taught_only_where_leaks_are_kept(drop: bool) -> None:
    pairs = [(f"w{i} x{i}", f"w{i} y{i}") for i in range(20)]
    given = split(rows(pairs), rows([("w200 w201", "w200 w202")]), extra=["W200  w202"])
    keys = {"random_negatives": 30, "positive_match": Match.exact, "drop_leaks": drop}
    mined = mine(given, config(**keys), Path("unused"))
    taught = {mined.train.passages[passage] for passage in mined.train.passage}
    assert ("W200  w202" in taught) is not drop and "w200 w202" not in taught
    assert mined.statistics["train_corpus_passages"] == 20 + (not drop)


@pytest.mark.parametrize("clash", ["question", "passage"])
def test_a_run_by_ids_that_stand_for_two_texts_is_refused(tmp_path: Path, clash: str) -> None:
    train, dev = rows(CATS, question_ids=["a"] * len(CATS)), rows(DEV, question_ids=["b"] * len(DEV))
    train.question_ids = [f"t{i}" for i in range(len(CATS))]
    dev.question_ids = [f"{'t' if clash == 'question' else 'd'}{i}" for i in range(len(DEV))]
    given = split(train, dev)
    given.corpus_ids = [f"p{i}" for i in range(len(given.corpus))]
    given.renamed = ["p0"] if clash == "passage" else []
    run = tmp_path / "run.trec"
    run.write_text("t0 Q0 p0 1 1.0 x\nd0 Q0 p0 1 1.0 x\n")
    said = "a question's id must stand for one question in all parts, got 't0' for '"
    if clash == "passage":
        said = "must have one text each, got 'p0' with two"
    with pytest.raises(DataError, match=said):
        mine(given, config(retriever=Retriever.run, path=str(run)), tmp_path)


@pytest.mark.parametrize("key", [fold, str])
def test_passages_are_found_by_their_folded_text_however_the_corpus_compares_them(key: Callable[[str], str]) -> None:
    corpus = Corpus(key)
    for number, text in enumerate(["One  two", "three", "one TWO"]):
        corpus.add(text, f"p{number}")
    same = {0} if key is fold else {0, 2}
    assert corpus.folded_among({"one two", "four"}) == same
    assert "One  two" in corpus and ("one two" in corpus) == (key is fold)
    assert corpus.position("one TWO") == max(same)
