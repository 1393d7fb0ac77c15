"""Which rows are dropped after the split, and why: blank texts, duplicates, questions without a positive."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pair_files import Row, load_split, pair_rows, pairs, write_jsonl

from pipeline.config.data import Format
from pipeline.core.records import Split


def dropped(split: Split) -> Counter[str]:
    """Return the number of dropped rows of all parts, by reason."""
    parts: Any = split.statistics["parts"]
    return sum((Counter(part["dropped"]) for part in parts.values()), Counter[str]())


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """Return a file of 200 rows, 50 copies, a blank question and a null answer."""
    rows = pair_rows(200)
    blank = [{"question": " ", "answer": "x"}, {"question": "null answer", "answer": None}]
    return write_jsonl(tmp_path / "a.jsonl", [*rows, *rows[:50], *blank])


def test_dedupe_does_not_change_the_split(dirty: Path) -> None:
    kept, cleaned = load_split(dirty, dedupe=False), load_split(dirty, dedupe=True)
    assert list(dict.fromkeys(pairs(kept.train))) == pairs(cleaned.train)
    assert list(dict.fromkeys(pairs(kept.dev))) == pairs(cleaned.dev)


def test_blank_and_duplicate_rows_are_dropped_and_counted(dirty: Path) -> None:
    split = load_split(dirty, dedupe=True)
    assert (len(split.train), len(split.dev)) == (160, 40)
    assert dropped(split) == {"exact_duplicate_row": 50, "blank_or_null_question": 1, "blank_or_null_answer": 1}
    assert split.statistics["rows_read"] == 252
    parts: Any = split.statistics["parts"]
    assert parts["dev"]["questions"] == 40
    assert parts["dev"]["rows_loaded"] + parts["train"]["rows_loaded"] == 252


def test_text_of_invisible_characters_is_blank(tmp_path: Path) -> None:
    invisible = [{"question": "\u200b", "answer": "x"}, {"question": "seen", "answer": "\ufeff \u00ad"}]
    split = load_split(write_jsonl(tmp_path / "a.jsonl", [*pair_rows(150), *invisible]))
    assert dropped(split) == {"blank_or_null_question": 1, "blank_or_null_answer": 1}


def test_pair_with_another_label_is_no_duplicate(tmp_path: Path) -> None:
    rows = [{**row, "label": label} for label in (0, 1, 1) for row in pair_rows(120)]
    split = load_split(write_jsonl(tmp_path / "a.jsonl", rows), format=Format.labelled)
    assert Counter([*(split.train.labels or []), *(split.dev.labels or [])]) == {0.0: 120, 1.0: 120}


def test_pair_with_other_negatives_is_no_duplicate(tmp_path: Path) -> None:
    rows = [{**row, "negatives": [name]} for name in ("n", "m", "m") for row in pair_rows(120)]
    split = load_split(write_jsonl(tmp_path / "a.jsonl", rows), format=Format.negatives)
    assert len(split.train) + len(split.dev) == 240


def test_labelled_question_without_a_positive_is_dropped(tmp_path: Path) -> None:
    rows: list[Row] = [{**row, "label": 2} for row in pair_rows(120)]
    rows += [{**row, "answer": "No.", "label": 0} for row in pair_rows(120)]
    rows += [{"question": f"unanswered {i}", "answer": "No.", "label": 1} for i in range(30)]
    split = load_split(write_jsonl(tmp_path / "a.jsonl", rows), format=Format.labelled, positive_threshold=2)
    assert Counter(split.train.labels or []) == {2.0: 96, 0.0: 96}
    assert Counter(split.dev.labels or []) == {2.0: 24, 0.0: 24}
    parts: Any = split.statistics["parts"]
    assert parts["train"]["dropped"] == {"question_without_positive": 30}
