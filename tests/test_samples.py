"""Training rows described: figures by hand, and an example whose pairs are real."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.records import LabelledPairs
from pipeline.reporting.samples import HEAD_ROWS, describe_rows, example_pairs


def _pairs(question: list[int], passage: list[int], label: list[float]) -> LabelledPairs:
    return LabelledPairs(
        questions=[f"question {number}" for number in range(max(question, default=-1) + 1)],
        passages=["p" * (number + 1) for number in range(max(passage, default=-1) + 1)],
        question=np.array(question, dtype=np.int32),
        passage=np.array(passage, dtype=np.int32),
        label=np.array(label, dtype=np.float32),
    )


def test_lengths_and_label_shares() -> None:
    described = describe_rows(_pairs([0, 0, 0, 1], [0, 1, 2, 5], [1, 0, 0, 1]), 4)
    assert described["size"] == described["head"] == 4
    assert described["question"] == {"min": 10, "mean": 10.0, "max": 10}
    assert described["answer"] == {"min": 1, "mean": 3.0, "max": 6}
    assert described["label"] == {"type": "int", "shares": {"0": 0.5, "1": 0.5}}
    assert described["samples"] == [["question 0", "p", 1], ["question 0", "pp", 0], ["question 0", "ppp", 0]]


def test_only_the_first_rows_are_described() -> None:
    rows = HEAD_ROWS + 500
    described = describe_rows(_pairs([0] * rows, [0] * HEAD_ROWS + [9] * 500, [0.0] * HEAD_ROWS + [1.0] * 500), 9000)
    assert (described["size"], described["head"]) == (9000, 1000)
    assert described["answer"]["max"] == 1
    assert described["label"]["shares"] == {"0": 1.0}


def test_graded_labels_have_a_range_instead_of_shares() -> None:
    described = describe_rows(_pairs([0, 0], [0, 1], [0.5, 0.25]), 2)
    assert described["label"] == {"type": "float", "min": 0.25, "mean": pytest.approx(0.375), "max": 0.5}
    assert described["samples"][0][2] == 0.5


def test_the_example_is_the_first_question_with_four_negatives() -> None:
    pairs = _pairs([0, 0, 1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 1, 0, 0, 0, 0, 0])
    assert example_pairs(pairs) == {
        "question": "question 1",
        "passages": ["p" * 3, "p" * 4, "p" * 5, "p" * 6, "p" * 7],
    }


def test_missing_negatives_are_filled_with_passages_of_other_questions() -> None:
    pairs = _pairs([0, 0, 1, 1, 2, 2], [0, 1, 2, 1, 3, 4], [1, 0, 1, 0, 1, 0])
    found = example_pairs(pairs)
    assert found["question"] == "question 0"
    assert found["passages"] == ["p", "pp", "ppp", "pppp", "ppppp"]


def test_no_rows_make_no_example() -> None:
    assert example_pairs(_pairs([], [], [])) == {"question": "", "passages": []}
    assert describe_rows(_pairs([], [], []), 0)["size"] == 0
