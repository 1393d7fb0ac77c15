"""Select the usable rows and describe them by counts and lengths. Pure; knows nothing of files or of splitting."""

from __future__ import annotations

from collections import Counter

from pipeline.config.data import DataConfig
from pipeline.core.records import PairRows, fold


def is_positive(rows: PairRows, row: int, threshold: float) -> bool:
    """Return whether a row's answer is a positive whose text is not blank."""
    return bool(fold(rows.answers[row])) and (rows.labels is None or rows.labels[row] >= threshold)


def usable_questions(rows: PairRows, threshold: float) -> dict[str, None]:
    """Return the folded questions that have a positive whose text is not blank, in first-occurrence order."""
    return {
        folded: None
        for row, question in enumerate(rows.questions)
        if (folded := fold(question)) and is_positive(rows, row, threshold)
    }


def clean(rows: PairRows, config: DataConfig, dropped: Counter[str]) -> PairRows:
    """Return the usable rows in order, and count the others in `dropped` by reason."""
    kept: list[int] = []
    seen: set[tuple[object, ...]] = set()
    for row in range(len(rows)):
        if not fold(rows.questions[row]):
            dropped["blank_or_null_question"] += 1
        elif not fold(rows.answers[row]):
            dropped["blank_or_null_answer"] += 1
        else:
            content = (
                rows.questions[row],
                rows.answers[row],
                None if rows.labels is None else rows.labels[row],
                None if rows.negatives is None else tuple(rows.negatives[row]),
            )
            if config.dedupe and content in seen:
                dropped["exact_duplicate_row"] += 1
                continue
            if config.dedupe:
                seen.add(content)
            kept.append(row)
    if rows.labels is not None:
        positive = {fold(rows.questions[row]) for row in kept if rows.labels[row] >= config.positive_threshold}
        judged = [row for row in kept if fold(rows.questions[row]) in positive]
        if len(judged) < len(kept):
            dropped["question_without_positive"] += len(kept) - len(judged)
        kept = judged
    return rows.take(kept)


def describe(loaded: PairRows, used: PairRows, dropped: Counter[str]) -> dict[str, object]:
    """Return counts and text lengths (in characters) of one part."""
    described: dict[str, object] = {
        "rows_loaded": len(loaded),
        "rows_used": len(used),
        "dropped": dict(sorted(dropped.items())),
        "questions": len({fold(question) for question in used.questions}),
        "question_characters": _lengths(used.questions),
        "answer_characters": _lengths(used.answers),
    }
    if used.groups is not None:
        described["groups"] = len(set(used.groups))
    return described


def _lengths(texts: list[str]) -> dict[str, float]:
    lengths = [len(text) for text in texts]
    return {"min": min(lengths), "mean": round(sum(lengths) / len(lengths), 2), "max": max(lengths)}
