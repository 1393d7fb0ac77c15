"""Which texts are one question or one passage, and which are left out of training as held out or in no part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mining_data import CATS, DEV, WORDS, config, rows, split, triples

from pipeline.config.data import Match
from pipeline.core.records import fold
from pipeline.mining.judged import Corpus
from pipeline.mining.miner import mine


def test_unused_passages_are_searched_but_never_trained_on() -> None:
    train = rows([(f"{WORDS[i]} {WORDS[i + 1]}", f"{WORDS[i]} {WORDS[i + 2]} {WORDS[i + 3]}") for i in range(120)])
    dev = rows([("w200 w201", "w200 w202")])
    unused = ["w200 w201 w5 w6", "w7 w8 w9"]
    given = split(train, dev, extra=unused)
    given.unused = rows([("w300", text) for text in (*unused, "not in a corpus of the user's own")])
    mined = mine(given, config(negatives=3, random_negatives=5, range_max=100), Path("unread"))
    assert unused[0] in {mined.dev.passages[passage] for passage in mined.dev.candidates["q000001"]}
    assert not set(unused) & {mined.train.passages[passage] for passage in mined.train.passage}


@pytest.mark.parametrize("margin", [None, 0.0], ids=["free", "margin"])
def test_positive_in_an_unused_row_is_no_negative_of_its_question(margin: float | None) -> None:
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


@pytest.mark.parametrize("given", ["label", "list"])
def test_positive_in_an_unused_row_is_no_given_negative_of_its_question(given: str) -> None:
    pairs = [*CATS, (CATS[0][0], CATS[1][1])]
    if given == "label":
        train = rows(pairs, labels=[1.0] * len(CATS) + [0.0])
    else:
        train = rows(CATS, negatives=[[CATS[1][1]], [], [], []])
    whole = split(train, rows(DEV))
    whole.unused = rows([(CATS[0][0], CATS[1][1])])
    mined = mine(whole, config(negatives=1), Path())
    own = [row for row in triples(mined.train) if row[0] == CATS[0][0]]
    assert (CATS[0][0], CATS[1][1], 0.0) not in own
    assert len(own) == 2, "without a negative of its own the question is mined"
    assert mined.statistics["contradicted_pairs"] == 1


def test_question_text_is_never_its_own_negative_or_candidate() -> None:
    twins = [("how do cats purr", "why cats purr"), ("Why  cats purr", "how do cats purr"), ("cats sleep", "cats nap")]
    dev = [("do birds sing", "when birds sing"), ("when birds  sing", "Do birds sing"), ("fish", "fish")]
    mining = config(negatives=2, random_negatives=3, dev_depth=1, drop_leaks=False)
    mined = mine(split(rows(twins), rows(dev)), mining, Path("unused"))
    assert len(mined.train) > len(twins)
    assert all(fold(question) != fold(passage) for question, passage, _ in triples(mined.train))
    found = {
        mined.dev.queries[query]: [mined.dev.passages[passage] for passage in passages]
        for query, passages in mined.dev.candidates.items()
    }
    # What is judged a positive stays: the third question is its own answer.
    assert found == {"do birds sing": ["when birds sing"], "when birds  sing": ["Do birds sing"], "fish": ["fish"]}


def test_titled_passage_with_the_questions_id_counts_as_the_question() -> None:
    pairs = [("cats purr", "cats are loud"), ("dogs bark", "dogs are loud"), ("loud", "loud noise")]
    train, dev = rows(pairs, question_ids=["a", "b", "c"]), rows(DEV, question_ids=["e"])
    whole = split(train, dev, extra=["A title. Cats  purr", "the dogs bark not", "loud cats"])
    whole.corpus_ids = ["1", "2", "3", "e", "a", "b", "c"]
    mined = mine(whole, config(negatives=6, drop_leaks=False), Path("unused"))
    negatives = {(question, passage) for question, passage, label in triples(mined.train) if not label}
    assert ("cats purr", "A title. Cats  purr") not in negatives
    # The id alone does not make a passage the question; nor does a text that only begins like it.
    assert {("dogs bark", "the dogs bark not"), ("loud", "loud cats")} <= negatives


def test_unjudged_passage_is_no_positive_at_threshold_zero() -> None:
    labelled = rows([("fish", "fish swim"), ("birds", "birds fly")], labels=[0.0, 0.0])
    train = rows(CATS, labels=[1.0] * len(CATS))
    whole = split(train, labelled, extra=["fish", "birds"])
    mined = mine(whole, config(dev_depth=5), Path("unused"), positive_threshold=0.0)
    found = {
        mined.dev.queries[query]: [mined.dev.passages[passage] for passage in passages]
        for query, passages in mined.dev.candidates.items()
    }
    assert found == {"fish": ["fish swim", "cats eat fish and mice"], "birds": ["birds fly"]}


def test_questions_are_trained_on_by_text_and_evaluated_by_id() -> None:
    train = rows([*CATS, ("what do cats eat", "cats eat birds")], question_ids=["a", "b", "c", "d", "f"])
    validation = rows([("who sings", "birds sing"), ("who sings", "choirs sing")], question_ids=["v", "w"])
    whole = split(train, rows(DEV, question_ids=["e"]), validation)
    mined = mine(whole, config(negatives=4, random_negatives=9, absolute_margin=None), Path("unused"))
    own = [row[1:] for row in triples(mined.train) if row[0] == "what do cats eat"]
    assert own[:2] == [(CATS[0][1], 1.0), ("cats eat birds", 1.0)]
    assert {passage for passage, _ in own[2:]} == {answer for _, answer in CATS[1:]}
    assert mined.validation is not None
    assert mined.validation.qrels == {"v": {"p000006": 1}, "w": {"p000007": 1}}


def test_texts_equal_when_folded_are_one_passage() -> None:
    pairs = [*CATS, ("what do cats eat", "Cats eat  FISH and mice"), ("food of cats", "cats EAT fish and mice")]
    dev = rows([("what do birds eat", "cats sleep on warm mats"), *DEV], question_ids=["b", "b"])
    mined = mine(split(rows(pairs), dev), config(drop_leaks=False), Path("unused"))
    own = [(p, label) for q, p, label in triples(mined.train) if q == "what do cats eat"]
    assert own[0] == ("cats eat fish and mice", 1.0)
    assert [fold(p) for p, label in own].count("cats eat fish and mice") == 1
    assert mined.dev.qrels == {"b": {"p000003": 1, "p000007": 1}}
    exact = mine(split(rows(pairs), dev), config(drop_leaks=False, positive_match=Match.exact), Path("unused"))
    assert exact.statistics["corpus_passages"] == 7 and mined.statistics["corpus_passages"] == 5


def test_ids_of_answers_outside_the_corpus_are_new() -> None:
    whole = split(rows(CATS), rows(DEV))
    whole.corpus, whole.corpus_ids = ["cats and birds", "dogs and birds"], ["p000004", "p000003"]
    mined = mine(whole, config(dev_depth=9), Path("unused"))
    assert mined.statistics["corpus_passages"] == 7 and len(mined.dev.candidates["q000001"]) > 2
    texts = {mined.dev.passages[passage] for passage in mined.dev.candidates["q000001"]}
    assert len(texts) == len(mined.dev.candidates["q000001"]) and texts > {*whole.corpus, DEV[0][1]}
    assert mined.dev.passages["p000004"] == "cats and birds"


@pytest.mark.parametrize("key", [fold, str], ids=["folded", "exact"])
def test_folded_among_finds_passages_whatever_the_corpus_key(key: Callable[[str], str]) -> None:
    corpus = Corpus(key)
    for number, text in enumerate(["One  two", "three", "one TWO"]):
        corpus.add(text, f"p{number}")
    same = {0} if key is fold else {0, 2}
    assert corpus.folded_among({"one two", "four"}) == same
    assert "One  two" in corpus and ("one two" in corpus) == (key is fold)
    assert corpus.position("one TWO") == max(same)
