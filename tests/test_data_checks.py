"""Log messages, warnings and refusals about rows that were read and split (`pipeline/data/checks.py`)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pair_files import load_split, pair_rows, refusal, write_jsonl

from pipeline.config.data import Format


def test_text_repairs_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = pair_rows(150)
    rows[3]["answer"] += " nul\0"
    rows[4]["question"] += " cut \ud83d"
    rows[5]["answer"] += " cut \ud83d"
    with caplog.at_level(logging.INFO):
        load_split(write_jsonl(tmp_path / "a.jsonl", rows))
    expected = "fixed while reading: 1 texts with NUL (now a space); 2 texts with half a surrogate pair (now U+FFFD)"
    assert expected in [record.message for record in caplog.records]


def test_texts_without_repairs_log_none(pairs_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load_split(pairs_file)
    assert "fixed" not in caplog.text


# Labels


def labelled_file(folder: Path, labels: list[object]) -> Path:
    """Write each label for each of 150 questions, with different answers."""
    rows = [{**row, "label": label} for row in pair_rows(150) for label in labels]
    rows = [{**row, "answer": f"{row['answer']} {number}"} for number, row in enumerate(rows)]
    return write_jsonl(folder / "a.jsonl", rows)


@pytest.mark.parametrize(
    ("labels", "threshold", "expected"),
    [
        (
            [5, 1, 2], 4,
            "labels 1: 150, 2: 150, 5: 150; positive from data.positive_threshold=4 up: 150 of 450",
        ),
        (
            [number / 10 for number in range(1, 10)], 0.5,
            "labels from 0.1 to 0.9, 9 different; positive from data.positive_threshold=0.5 up: 750 of",
        ),
    ],
    ids=["few labels", "many labels"],
)  # fmt: skip
def test_labels_are_logged_with_their_positives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: list[object], threshold: float, expected: str
) -> None:
    caplog.set_level(logging.INFO)
    load_split(labelled_file(tmp_path, labels), format=Format.labelled, positive_threshold=threshold)
    assert expected in caplog.text and "No row counts as a wrong" not in caplog.text


def test_different_labels_that_are_all_positive_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_split(labelled_file(tmp_path, [5, 1, 2]), format=Format.labelled)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message for message in warnings if "labels" in message] == [
        "labels 1: 150, 2: 150, 5: 150; positive from data.positive_threshold=1 up: 450 of 450. "
        "No row counts as a wrong answer: if the lowest labels mean one, raise data.positive_threshold"
    ]


def test_one_label_for_all_rows_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load_split(labelled_file(tmp_path, [1]), format=Format.labelled)
    assert "labels 1: 150" in caplog.text and "No row counts as a wrong" not in caplog.text


# The size of the parts


@pytest.mark.parametrize(("questions", "width"), [(20, "0.29"), (25, "0.26"), (30, "0.23")])
def test_few_dev_questions_warn_of_the_intervals_width(
    pairs_file: Path, caplog: pytest.LogCaptureFixture, questions: int, width: str
) -> None:
    load_split(pairs_file, dev_queries=questions)
    expected = f"only {questions} dev questions: a 95 % interval of an nDCG@10 difference will be about {width} wide"
    assert expected in caplog.text


def test_interval_width_is_forecast_from_the_number_of_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**row, "document": f"d{i // 40}"} for i, row in enumerate(pair_rows(2000))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    load_split(path, group_column="document", dev_queries=400)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    expected = "a 95 % interval of an nDCG@10 difference will be about 0.44 wide"
    assert warnings[0] == f"only 10 groups of dev questions: {expected}"
    caplog.clear()
    load_split(path, dev_queries=400)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("dev_queries", "units", "width"),
    [(40, "1 group", "2.00"), (80, "2 groups", "2.00"), (120, "3 groups", "1.54"), (160, "4 groups", "0.99")],
)
def test_interval_of_few_groups_is_forecast_by_students_t(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dev_queries: int, units: str, width: str
) -> None:
    rows = [{**row, "document": f"d{i // 40}"} for i, row in enumerate(pair_rows(800))]
    load_split(write_jsonl(tmp_path / "a.jsonl", rows), group_column="document", dev_queries=dev_queries)
    expected = f"only {units} of dev questions: a 95 % interval of an nDCG@10 difference will be about {width} wide"
    assert expected in [record.getMessage() for record in caplog.records]


def test_two_hundred_dev_questions_warn_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_split(write_jsonl(tmp_path / "a.jsonl", pair_rows(1000)), dev_queries=200)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("size", "warns"), [(400, True), (10, False)])
def test_large_group_held_out_but_mostly_unused_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int, warns: bool
) -> None:
    rows = [{**row, "title": f"t{i // 5}" if i >= size else "large"} for i, row in enumerate(pair_rows(800))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    for seed in range(12):  # some draw the large group
        load_split(path, group_column="title", dev_queries=40, split_seed=seed)
    assert ("are used in neither training nor evaluation. Lower data.dev_queries" in caplog.text) == warns


# One passage for all rows


def test_one_answer_to_all_questions_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{**row, "answer": "See the  FAQ."} for row in pair_rows(200)])
    assert refusal(path) == (
        f"{path} must hold answers that differ, got the same one in all 160 training rows, 'see the faq.'. "
        "Name the column of the passages: data.answer_column=<column>."
    )


def test_one_answer_beside_listed_negatives_is_accepted(tmp_path: Path) -> None:
    rows = [{**row, "answer": "See the FAQ.", "negatives": [f"Thing {i}."]} for i, row in enumerate(pair_rows(200))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert len(load_split(path, format=Format.negatives).train) == 160


def test_one_answer_beside_a_corpus_is_accepted(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": f"Thing {i}."} for i in range(9)])
    path = write_jsonl(tmp_path / "a.jsonl", [{**row, "answer": "See the FAQ."} for row in pair_rows(200)])
    assert len(load_split(path, corpus_path=str(corpus)).train) == 160
