"""Warnings and refusals about mined rows and sets: their counts, their levels and the remedies they name."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from mining_data import CATS, DEV, WORDS, config, random_pairs, rows, split, triples
from pair_files import load_split, pair_rows, write_jsonl

from pipeline.config.data import Format
from pipeline.core.errors import DataError
from pipeline.core.records import Split
from pipeline.mining.miner import mine


def messages_of_mining(whole: Split, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what `mining.checks` logs while a split is mined."""
    caplog.set_level(logging.INFO)
    mine(whole, config(negatives=1, random_negatives=1), Path("unused"))
    return [record.getMessage() for record in caplog.records if record.name == "pipeline.mining.checks"]


def test_leak_message_names_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    few = [(f"is {word} good", ("yes", "no")[number % 2]) for number, word in enumerate(WORDS[:60])]
    with pytest.raises(DataError, match=r"They have 2 different answers: give passages that tell one question from "):
        mine(split(rows(few[:40]), rows(few[40:])), config(), Path("unused"))
    assert "dev_queries" not in caplog.text
    caplog.clear()
    pairs = random_pairs(3, 60)
    given = split(rows(pairs), rows([(q, f"{a} more") for q, a in pairs]))
    given.dev_file = "d.jsonl"
    with pytest.raises(DataError) as refusal:
        mine(given, config(), Path("unused"))
    assert str(refusal.value) == (
        f"the training part must hold a positive, got 0 rows, none positive, after {len(pairs)} that share a question "
        f"({len(pairs)}) or positive with data.dev_path=d.jsonl. Give it other questions, or remove the key to split "
        "some off the training rows."
    )
    given.dev = rows([(q, f"{a} more") for q, a in pairs[:30]])
    mine(given, config(), Path("unused"))
    assert "are left (leave them out of data.dev_path=d.jsonl to keep them)" in caplog.text
    assert "data.dev_queries" not in caplog.text


@pytest.mark.parametrize("column", [None, "user"], ids=["no group column", "group column"])
@pytest.mark.parametrize("is_shared", [True, False], ids=["an answer of many questions", "answers of two questions"])
def test_leak_message_advises_groups_only_where_they_can_help(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str | None, is_shared: bool
) -> None:
    """A third of the questions have the same answer, or every answer has two questions; neither is within a group."""
    texts = ["Please restart." if i % 3 == 0 else f"Answer {i}." for i in range(300)]
    if not is_shared:
        texts = [f"Answer {i % 150}." for i in range(300)]
    given = [{"question": f"what is {i}", "answer": text, "user": f"u{i}"} for i, text in enumerate(texts)]
    whole = load_split(write_jsonl(tmp_path / "a.jsonl", given), group_column=column, dev_queries=60)
    (message,) = [text for text in messages_of_mining(whole, caplog) if "with a held-out part" in text]
    assert ("data.group_column=<column>" in message) == (column is None and not is_shared)
    assert ("fewer data.dev_queries" in message) == (not is_shared)
    assert ("have the answer 'Please restart.': leave them out if it is a placeholder" in message) == is_shared


def test_training_part_without_a_positive_is_refused() -> None:
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


def test_repeated_pairs_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    again = [(f"{q.upper()} ", a.replace(" ", "  ")) for q, a in CATS]
    mined = mine(split(rows([*CATS, *again, *again]), rows([*DEV, *DEV])), config(), Path("unused"))
    assert mined.statistics["merged_rows"] == {"train": 8, "dev": 1} and mined.statistics["positives"] == 4
    messages = [(record.levelname, record.message) for record in caplog.records if "repeat" in record.message]
    repeat = "repeat an earlier pair, as mining.positive_match=folded compares them"
    assert messages == [
        ("WARNING", f"train: 8 of 12 rows {repeat}: 4 are used"),
        ("WARNING", f"dev: 1 of 2 rows {repeat}: 1 are used"),
    ]
    # A row whose answer was listed as a negative is no repetition; the next row with that answer is.
    (question, answer), (_, other), third, (_, wrong) = CATS
    given = [(question, answer), (question, other), (question, other), third]
    mined = mine(split(rows(given, negatives=[[other], [], [], [wrong]]), rows(DEV)), config(), Path("unused"))
    assert mined.statistics["merged_rows"] == {"train": 1, "dev": 0}
    caplog.clear()
    once = mine(split(rows(random_pairs(3, 60) + CATS[:1] * 2), rows(DEV)), config(), Path("unused"))
    assert once.statistics["merged_rows"]["dev"] == 0  # type: ignore[index]
    assert [record.levelname for record in caplog.records if "repeat" in record.message] == ["INFO"]


def test_pair_with_two_labels_keeps_the_higher_one_and_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pairs = [("red cat", "a red cat")] * 3 + [("red cat", "an old dog"), ("old dog", "an old dog")]
    train = rows(pairs, labels=[0.0, 1.0, 0.0, 0.0, 1.0])
    mined = mine(split(train, rows([("blue bird", "a blue bird")])), config(), Path("unused"))
    assert mined.statistics["contradicted_pairs"] == 1
    assert ("red cat", "a red cat", 1.0) in triples(mined.train)
    assert "train: 1 pair has two labels: the lower one is not used" in caplog.text


def test_pairs_with_two_labels_are_counted_in_every_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = [{**row, "label": label} for row in pair_rows(200) for label in (1, 0)]
    given += [{**row, "answer": f"Wrong {i}.", "label": 0} for i, row in enumerate(pair_rows(200))]
    path = write_jsonl(tmp_path / "a.jsonl", given)
    whole = load_split(path, format=Format.labelled, dev_queries=30, validation_queries=20)
    assert [message for message in messages_of_mining(whole, caplog) if "two labels" in message] == [
        f"{part} pairs have two labels: the lower one is not used"
        for part in ("train: 150", "dev: 30", "validation: 20")
    ]


def test_question_with_a_tenth_of_the_rows_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pairs = random_pairs(3, 60)
    many = [("N/A" if number % 4 == 0 else q, a) for number, (q, a) in enumerate(pairs)]
    mined = mine(split(rows(many), rows(DEV)), config(negatives=1), Path("unused"))
    own = sum(q == "N/A" for q, _, _ in triples(mined.train))
    assert f"train: {own} of {len(mined.train)} rows are of one question, 'N/A'. Leave it out if" in caplog.text
    caplog.clear()
    mine(split(rows(pairs), rows(DEV)), config(negatives=1), Path("unused"))
    assert "one question" not in caplog.text


def test_answer_to_a_tenth_of_the_questions_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pairs = random_pairs(3, 120)
    many = [(f"{q} {number}", "N/A" if number % 4 == 0 else a) for number, (q, a) in enumerate(pairs)]
    mine(split(rows(many), rows(DEV)), config(negatives=1), Path("unused"))
    expected = (
        f"train: {-(-len(pairs) // 4)} of {len(pairs)} questions have the answer 'N/A'. Leave their rows out if it"
    )
    assert expected in caplog.text
    caplog.clear()
    mine(split(rows(pairs), rows([("w1 w2", "yes"), ("w3 w4", "w5 yes")])), config(negatives=1), Path("unused"))
    assert "have the answer" not in caplog.text, "with two different answers, each answers half of the questions"


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({"absolute_margin": 1e9}, "Lower mining.absolute_margin=1e+09, or unset it."),
        ({"relative_margin": 0.999}, "Lower mining.relative_margin=0.999, or unset it."),
        ({"range_min": 90}, "Lower mining.range_min=90, or unset it."),
    ],
    ids=["absolute_margin", "relative_margin", "range_min"],
)
def test_missing_hard_negatives_are_warned_of_with_the_remedy(
    keys: dict[str, object], remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = split(rows(random_pairs(3, 60)), rows(DEV))
    statistics = mine(whole, config(random_negatives=2, **keys), Path("unused")).statistics
    mined, found = (statistics[f"questions_{what}"] for what in ("mined", "with_hard_negatives"))
    assert f"train: {found} of {mined} mined questions have a hard negative. {remedy}" in caplog.text
    if "relative_margin" not in keys:  # it leaves a few
        with pytest.raises(DataError, match=f"hold negatives, got none. {re.escape(remedy)}$"):
            mine(whole, config(**keys), Path("unused"))
    caplog.clear()
    mine(whole, config(random_negatives=2), Path("unused"))
    assert "hard negative" not in caplog.text


def test_first_stage_that_rarely_finds_a_positive_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pairs = random_pairs(3, 60)
    dev = [(q, f"zz{number} yy{number}") for number, (q, _) in enumerate(pairs[:30])]
    mine(split(rows(pairs[30:]), rows(dev)), config(), Path("unused"))
    expected = (
        "dev: the first stage finds a right passage for 0 of 24 questions; what it misses counts as 0. BM25 finds only"
    )
    assert expected in caplog.text


def test_first_stage_that_finds_nothing_is_refused(caplog: pytest.LogCaptureFixture) -> None:
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
