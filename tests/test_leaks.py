"""Training rows that leak into held-out parts: dropped, or kept, and counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from mining_data import CATS, DEV, config, rows, split

from pipeline.config.data import Match
from pipeline.core.errors import DataError
from pipeline.mining.miner import mine


def test_leaks_are_dropped_or_kept_and_counted(caplog: pytest.LogCaptureFixture) -> None:
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
    messages = [record.message for record in caplog.records if record.name == "pipeline.mining.checks"]
    shared = "train: 2 of 6 rows share a question (1) or a positive (1 more) with a held-out part: "
    remedy = "(data.group_column=<column> keeps rows of one passage together; fewer data.dev_queries drop fewer)"
    assert messages == [f"{shared}dropped, 4 are left {remedy}", f"{shared}kept, because mining.drop_leaks=false"]
    with pytest.raises(DataError, match="got 0 rows, none positive, after 1 that share a question or positive"):
        mine(split(rows(train[4:5]), rows(DEV)), config(), Path("unused"))


def test_row_that_leaks_by_question_and_answer_is_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    leaks = mine(split(rows([*CATS, *DEV]), rows(DEV)), config(), Path("unused")).statistics["leaks"]
    assert leaks["train_rows_with_a_held_out_question"] == 1  # type: ignore[index]
    assert leaks["train_rows_with_a_held_out_positive"] == 0  # type: ignore[index]
    assert "train: 1 of 5 rows shares a question (1) or a positive (0 more) with a held-out part" in caplog.text


def test_validation_is_held_out_like_dev() -> None:
    mined = mine(split(rows(CATS), rows(DEV), rows(CATS[:1])), config(), Path("unused"))
    assert mined.validation is not None
    assert mined.validation.name == "validation"
    assert list(mined.validation.queries) == ["v000001"]
    assert CATS[0][0] not in mined.train.questions
    assert CATS[0][1] not in mined.train.passages


def test_validation_positives_are_searched_but_never_negatives() -> None:
    validation = rows([("what do fish eat", "fish eat plants and mice")])
    whole = split(rows(CATS), rows(DEV), validation)
    whole.corpus.remove(validation.answers[0])  # as a corpus of the user's own may lack it
    mined = mine(whole, config(negatives=3, random_negatives=9, absolute_margin=None), Path("unused"))
    assert (mined.statistics["corpus_passages"], mined.statistics["train_corpus_passages"]) == (6, 4)
    assert mined.validation is not None and validation.answers[0] not in mined.train.passages
    assert validation.answers[0] in {mined.validation.passages[p] for p in mined.validation.candidates["v000001"]}


@pytest.mark.parametrize("drop", [True, False], ids=["dropped", "kept"])
def test_respelled_held_out_positive_is_trained_on_only_if_leaks_are_kept(drop: bool) -> None:
    pairs = [(f"w{i} x{i}", f"w{i} y{i}") for i in range(20)]
    given = split(rows(pairs), rows([("w200 w201", "w200 w202")]), extra=["W200  w202"])
    keys = {"random_negatives": 30, "positive_match": Match.exact, "drop_leaks": drop}
    mined = mine(given, config(**keys), Path("unused"))
    trained_on = {mined.train.passages[passage] for passage in mined.train.passage}
    assert ("W200  w202" in trained_on) is not drop and "w200 w202" not in trained_on
    assert mined.statistics["train_corpus_passages"] == 20 + (not drop)
