"""A corpus of the user's own: what is searched, left out or refused, and which answers are its passages."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pair_files import Row, load_split, pair_rows, pairs, refusal, write_jsonl

from pipeline.config.data import Format, MiningConfig, Retriever
from pipeline.core.records import Split, fold
from pipeline.mining.miner import mine


def answers_by_question(split: Split) -> dict[str, str]:
    return {question: answer for part in (split.train, split.dev) for question, answer in pairs(part)}


def test_passages_are_title_and_text_and_distinct_with_their_first_id(pairs_file: Path) -> None:
    corpus = write_jsonl(
        pairs_file.parent / "corpus.jsonl",
        [{"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "text": "T x"}, {"_id": "d3", "text": "y"}],
    )
    dev = write_jsonl(pairs_file.parent / "dev.jsonl", [{"question": f"new {i}", "answer": "New."} for i in range(30)])
    for keys in ({}, {"dev_path": str(dev)}):
        split = load_split(pairs_file, corpus_path=str(corpus), **keys)
        assert (split.corpus, split.corpus_ids) == (["T x", "y"], ["d1", "d3"])


def test_passages_left_out_or_repaired_are_counted(pairs_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["x", " \t", "y", "x", "", "x", "nul\0"]
    corpus = write_jsonl(pairs_file.parent / "corpus.jsonl", [{"text": text} for text in [*texts, None]])
    with caplog.at_level(logging.INFO):
        split = load_split(pairs_file, corpus_path=str(corpus))
    assert split.corpus == ["x", "y", "nul"]
    assert split.statistics["reading"] == {
        "corpus_passages_with_an_earlier_text": 2,
        "corpus_passages_without_text": 3,
        "texts_with_nul": 1,
    }
    assert f"{corpus}: 3 passages to search; left out: 3 without text, 2 that repeat an earlier one" in caplog.text


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        ({"txt": "x"}, "key text must be present, got only the keys ['txt']. Write {\"text\": …} on each line."),
        ({"text": 5}, "key text must be text, got 5. Put it in quotes."),
        ({"text": "x", "title": 0}, "key title must be text, got 0. Put it in quotes."),
        ({"answer": ["x"]}, "key answer must be text, got ['x']. Put it in quotes."),
        ({"_id": None, "id": "d1", "text": "x"}, "have a unique id, got 'd1'. Rename it."),
    ],
    ids=["no text", "number as text", "number as title", "list as answer", "repeated id"],
)
def test_broken_line_is_refused_with_its_number_and_key(pairs_file: Path, line: dict[str, object], ending: str) -> None:
    corpus = write_jsonl(pairs_file.parent / "corpus.jsonl", [{"_id": "d1", "answer": "y", "title": 7}, line])
    message = refusal(pairs_file, corpus_path=str(corpus))
    assert message.startswith(f"{corpus}, line 2") and message.endswith(ending)


@pytest.mark.parametrize(("suffix", "content"), [(".csv", b"text\na\n"), (".parquet", b"PAR1\xff")])
def test_table_as_a_corpus_refusal_asks_for_json_lines(pairs_file: Path, suffix: str, content: bytes) -> None:
    corpus = pairs_file.parent / f"corpus{suffix}"
    corpus.write_bytes(content)
    assert refusal(pairs_file, corpus_path=str(corpus)) == (
        f'{corpus} must be JSONL, got a {suffix} file. Only JSONL is read here: write {{"text": …}} on each line.'
    )


def test_listed_negative_is_replaced_by_its_titled_passage(tmp_path: Path) -> None:
    rows = [{**row, "negatives": ["Wrong."]} for row in pair_rows(148)]
    # One answer equals two passages without their titles, the other equals one of these with its title.
    rows += [{"question": q, "answer": a, "negatives": []} for q, a in (("who", "Body."), ("what", "Other Body."))]
    titled = [("First", "Body."), ("Other", "Body."), ("T", "Wrong.")]
    passages = [{"_id": title, "title": title, "text": text} for title, text in titled]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*passages, {"text": "more"}])
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    split = load_split(path, format=Format.negatives, corpus_path=str(corpus))
    assert split.corpus == ["First Body.", "Other Body.", "T Wrong.", "more"], "an answer's own passage is kept"
    assert split.corpus_ids is None, "one passage has none"
    answers = answers_by_question(split)
    assert (answers["who"], answers["what"]) == ("First Body.", "Other Body.")
    listed = [text for part in (split.train, split.dev) for own in part.negatives or [] for text in own]
    assert listed == ["T Wrong."] * 148


def test_answer_is_matched_with_the_passage_of_its_text(pairs_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = [row["answer"] for row in pair_rows(150)]
    passages = [{"title": f"Title {i}", "text": answer.upper()} for i, answer in enumerate(answers[:100])]
    passages += [
        {"title": "Later", "text": answers[0]},
        {"text": answers[1]},
        {"title": "Thing", "text": "140 is number 140."},
    ]
    corpus = write_jsonl(pairs_file.parent / "corpus.jsonl", [*passages, {"text": "more"}])
    with caplog.at_level(logging.INFO):
        split = load_split(pairs_file, corpus_path=str(corpus))
    assert f"data.corpus_path={corpus}: 101 of 150 answers are among its passages" in caplog.text
    assert split.statistics["corpus"] == {"answers": 150, "answers_in_corpus": 101}
    # "Later" would be a wrong answer to question 0, and "Title 1" to question 1.
    reading = split.statistics["reading"]
    assert isinstance(reading, dict) and reading["corpus_passages_with_an_answers_text_under_another_title"] == 2
    assert len(split.corpus) == 102 and not any(text.startswith(("Later", "Title 1 ")) for text in split.corpus)
    matched = answers_by_question(split)
    assert matched["what is thing 0"] == "Title 0 THING 0 IS NUMBER 0."  # the first of its text
    assert matched["what is thing 1"] == answers[1]  # as it stands, rather than under a title
    assert matched["what is thing 140"] == "Thing 140 is number 140." and matched["what is thing 149"] == answers[149]
    config = MiningConfig(retriever=Retriever.bm25, negatives=20, random_negatives=20, dev_depth=20)
    mined = mine(split, config, pairs_file.parent / "unused")
    assert not any(
        fold(mined.train.passages[p]).endswith(fold(mined.train.questions[q].removeprefix("what is ")) + ".")
        for q, p, label in zip(mined.train.question, mined.train.passage, mined.train.label, strict=True)
        if not label
    ), "no copy of an answer is mined as its question's negative"
    for query, text in mined.dev.queries.items():
        number = text.removeprefix("what is thing ")
        positives = {p for p, grade in mined.dev.qrels[query].items() if grade}
        same_text = {p for p, passage in mined.dev.passages.items() if fold(passage).endswith(f"is number {number}.")}
        assert positives == same_text


def test_corpus_with_none_of_the_answers_warns(pairs_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = write_jsonl(pairs_file.parent / "corpus.jsonl", [{"text": f"else {i}"} for i in range(20)])
    load_split(pairs_file, corpus_path=str(corpus))
    assert f"data.corpus_path={corpus}: none of 150 answers is among its passages, with the title or" in caplog.text


def test_listed_negatives_beside_answers_that_are_ids_are_ids_or_texts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = write_jsonl(
        tmp_path / "c.jsonl",
        [{"id": f"d{i}", "title": f"T{i}", "text": "It is 7." if i in (7, 8) else f"It is {i}."} for i in range(200)],
    )
    rows = [{"question": f"what is {i}", "answer": f"d{i}", "negatives": [f"d{i + 1}", "it is 7."]} for i in range(150)]
    keys: dict[str, Any] = {"format": Format.negatives, "corpus_path": str(corpus)}
    split = load_split(write_jsonl(tmp_path / "a.jsonl", rows), **keys)
    assert split.train.negatives is not None
    assert {text for texts in split.train.negatives for text in texts} <= set(split.corpus)
    assert {"T7 It is 7.", "T8 It is 7."} <= set(split.corpus), "an answer named by its id is kept"
    rows[3]["negatives"] = ["d999"]
    load_split(write_jsonl(tmp_path / "a.jsonl", rows), **keys)
    expected = f"{corpus}: 1 of 151 listed negatives are neither ids nor texts of its passages, such as 'd999'"
    assert expected in caplog.text


def test_answers_that_are_ids_of_the_corpus_are_read_as_its_passages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    passages = [{"id": f"d{i}", "title": f"T{i}", "text": f"It is {i}."} for i in range(200)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", passages)
    clicks = [
        {"query": f"what is {i}", "doc": f"d{(i + shift) % 150}", "clicked": 1 - shift}
        for i in range(150)
        for shift in (0, 1)
    ]
    keys: dict[str, Any] = {"question_column": "query", "answer_column": "doc", "corpus_path": str(corpus)}
    keys |= {"format": Format.labelled, "label_column": "clicked"}
    split = load_split(write_jsonl(tmp_path / "clicks.jsonl", clicks), **keys)
    assert f"data.corpus_path={corpus}: all 150 answers are ids of its passages" in caplog.text
    assert split.statistics["corpus"] == {"answers": 150, "answers_in_corpus": 150}
    for part in (split.train, split.dev):
        for question, answer, label in zip(part.questions, part.answers, part.labels or [], strict=True):
            number = (int(question.split()[-1]) + (label == 0)) % 150
            assert answer == f"T{number} It is {number}."
    assert split.corpus == [f"T{i} It is {i}." for i in range(200)]


def rows_with_ids(count: int) -> list[Row]:
    """Return rows whose answers are the ids d0, d1, …"""
    return [{"question": f"what is {i}", "answer": f"d{i}"} for i in range(count)]


def write_corpus(path: Path, count: int) -> Path:
    """Write passages with the ids d0, d1, …"""
    return write_jsonl(path, [{"_id": f"d{i}", "text": f"It is {i}."} for i in range(count)])


def test_answers_that_are_mostly_ids_but_not_all_are_refused(tmp_path: Path) -> None:
    path, corpus = write_jsonl(tmp_path / "a.jsonl", rows_with_ids(150)), write_corpus(tmp_path / "c.jsonl", 100)
    assert refusal(path, corpus_path=str(corpus)) == (
        f"{corpus} must hold a passage for each of 150 answers, got 100 that are ids, but 50 that are not, such as "
        "'d100'. Add the passages of these ids, leave their rows out, or write the texts in place of the ids."
    )


@pytest.mark.parametrize(("passages", "is_refused"), [(75, True), (74, False)], ids=["half", "fewer"])
def test_half_of_the_answers_decide_that_all_are_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, passages: int, is_refused: bool
) -> None:
    path, corpus = write_jsonl(tmp_path / "a.jsonl", rows_with_ids(150)), write_corpus(tmp_path / "c.jsonl", passages)
    if is_refused:
        assert "got 75 that are ids, but 75 that are not, such as" in refusal(path, corpus_path=str(corpus))
        return
    load_split(path, corpus_path=str(corpus))
    assert (
        f"{corpus}: 74 of 150 answers are ids of its passages, such as 'd0', but all are read as texts" in caplog.text
    )
    assert "If the answers are ids, the corpus must have them under the key `id` or `_id`" in caplog.text


def test_one_unknown_id_is_refused_beside_rows_with_ids(tmp_path: Path) -> None:
    path, corpus = write_jsonl(tmp_path / "a.jsonl", rows_with_ids(150)), write_corpus(tmp_path / "c.jsonl", 160)
    rows = [{"question": f"which is {i}", "answer": f"d{i}" if i == 155 else f"e{i}"} for i in range(150, 180)]
    dev = write_jsonl(tmp_path / "dev.jsonl", rows)
    assert "got 1 that are ids, but 29 that are not" in refusal(path, corpus_path=str(corpus), dev_path=str(dev))


def test_dev_file_of_texts_may_stand_beside_rows_with_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path, corpus = write_jsonl(tmp_path / "a.jsonl", rows_with_ids(150)), write_corpus(tmp_path / "c.jsonl", 200)
    dev_rows = [{"question": f"which is {i}", "answer": f"it is {i}."} for i in range(160, 190)]
    dev = write_jsonl(tmp_path / "dev.jsonl", dev_rows)
    split = load_split(path, corpus_path=str(corpus), dev_path=str(dev), validation_queries=20)
    assert split.validation is not None
    for part in (split.train, split.dev, split.validation):
        assert pairs(part) == [(question, f"It is {question.split()[-1]}.") for question in part.questions]
    assert split.statistics["corpus"] == {"answers": 180, "answers_in_corpus": 180}
    assert "180 of 180 answers are among its passages, 150 of them by their ids" in caplog.text


def test_dev_file_of_ids_may_stand_beside_rows_with_texts(tmp_path: Path) -> None:
    path, corpus = write_jsonl(tmp_path / "a.jsonl", pair_rows(150)), write_corpus(tmp_path / "c.jsonl", 200)
    dev = write_jsonl(tmp_path / "dev.jsonl", rows_with_ids(30))
    split = load_split(path, corpus_path=str(corpus), dev_path=str(dev))
    assert split.dev.answers == [f"It is {i}." for i in range(30)]
    assert split.train.answers == [row["answer"] for row in pair_rows(150)]


def test_answer_column_of_passages_without_text_is_logged(pairs_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    corpus = write_jsonl(pairs_file.parent / "c.jsonl", [{"answer": "a text", "body": "b"}, {"text": "more"}])
    load_split(pairs_file, corpus_path=str(corpus))
    assert f"{corpus}: passages without the key text, which are read from the key answer: 1" in caplog.text


def test_answer_column_of_ids_beside_another_key_is_refused(pairs_file: Path) -> None:
    corpus = write_jsonl(pairs_file.parent / "c.jsonl", [{"answer": f"d{i}", "body": "a text"} for i in range(9)])
    assert refusal(pairs_file, corpus_path=str(corpus)) == (
        f"{corpus}, key answer must hold the passages' texts, got only short texts without white space beside the key "
        "'body'. Rename the passages' key to `text`, and that of their ids, if any, to `id`."
    )


def test_answer_column_without_spaces_is_read_if_a_text_is_longer_than_an_id(pairs_file: Path) -> None:
    records = [{"answer": f"{i}" + "北京是中国的首都" * 9, "url": f"u{i}"} for i in range(9)]
    corpus = write_jsonl(pairs_file.parent / "c.jsonl", records)
    assert load_split(pairs_file, corpus_path=str(corpus)).corpus == [str(record["answer"]) for record in records]


def test_answer_column_of_single_words_is_read_beside_questions(pairs_file: Path) -> None:
    records = [{"id": f"{i}", "question": f"which {i}", "answer": f"d{i}"} for i in range(9)]
    corpus = write_jsonl(pairs_file.parent / "c.jsonl", records)
    assert load_split(pairs_file, corpus_path=str(corpus)).corpus == [f"d{i}" for i in range(9)]


def test_answers_are_texts_if_as_many_are_texts_as_ids_of_passages(tmp_path: Path) -> None:
    texts = [{"question": f"which is {i}", "answer": f"it is {i}."} for i in range(75)]
    path, corpus = (
        write_jsonl(tmp_path / "a.jsonl", [*rows_with_ids(75), *texts]),
        write_corpus(tmp_path / "c.jsonl", 100),
    )
    assert load_split(path, corpus_path=str(corpus)).statistics["corpus"] == {"answers": 150, "answers_in_corpus": 75}


def test_ids_are_ids_though_one_is_also_the_text_of_a_passage(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows_with_ids(150))
    records = [{"_id": f"d{i}", "text": f"It is {i}."} for i in range(200)] + [{"_id": "x", "text": "d7"}]
    split = load_split(path, corpus_path=str(write_jsonl(tmp_path / "c.jsonl", records)))
    assert split.statistics["corpus"] == {"answers": 150, "answers_in_corpus": 150}
    assert "d7" not in [*split.train.answers, *split.dev.answers]
