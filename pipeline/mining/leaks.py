"""Leaks: training rows that share a question or a positive with held-out parts. Knows no corpus and no first stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pipeline.core.records import PairRows, fold


def positive_folds(parts: Iterable[PairRows], threshold: float) -> set[str]:
    """Return the folded texts of the parts' positives."""
    return {
        fold(answer)
        for part in parts
        for row, answer in enumerate(part.answers)
        if part.labels is None or part.labels[row] >= threshold
    }


def without_leaks(
    train: PairRows, held_out: list[PairRows], threshold: float, *, drop: bool
) -> tuple[PairRows, dict[str, Any]]:
    """Drop training rows whose question is held out, or whose passage is a held-out positive.

    Texts are compared folded. Negatives are no exception: a held-out positive is in no row of train, nor among the
    negatives that a row lists.

    Returns:
        The rows (all of them unless `drop`), and the counts; a row that leaks both ways counts under its question.
    """
    questions = {fold(question) for part in held_out for question in part.questions}
    passages = positive_folds(held_out, threshold)
    by_question = [fold(question) in questions for question in train.questions]
    by_passage = [fold(answer) in passages for answer in train.answers]
    negatives = [[fold(text) in passages for text in texts] for texts in train.negatives or []]
    counts: dict[str, Any] = {
        "train_rows_with_a_held_out_question": sum(by_question),
        "train_rows_with_a_held_out_positive": sum(p and not q for q, p in zip(by_question, by_passage, strict=True)),
        "listed_negatives_that_are_held_out_positives": sum(map(sum, negatives)),
        "dropped": drop,
    }
    if not drop:
        return train, counts
    if train.negatives is not None:
        clean = [
            [text for text, leaks in zip(texts, marks, strict=True) if not leaks]
            for texts, marks in zip(train.negatives, negatives, strict=True)
        ]
        train = replace(train, negatives=clean)
    rows = [row for row in range(len(train)) if not (by_question[row] or by_passage[row])]
    return train.take(rows), counts
