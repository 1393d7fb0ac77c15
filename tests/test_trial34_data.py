"""What a trial with own data found: unread columns, ids for answers, wide intervals, swallowed rows, splits."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.data import DataConfig, Format, Source
from pipeline.core.records import Split
from pipeline.data.source import load

Row = dict[str, Any]


def rows_of(number: int) -> list[Row]:
    return [{"question": f"what is thing {i}", "answer": f"Thing {i} is number {i}."} for i in range(number)]


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(path: Path, **keys: Any) -> Split:
    given = {"source": Source.local, "name": "x", "path": str(path), **keys}
    return load(DataConfig(**given), source=None, cache=path.parent / "cache")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- splitting ---


@pytest.mark.parametrize("per_group", [None, 3])
@pytest.mark.parametrize("keys", [{}, {"format": Format.labelled}])
def test_a_group_gives_a_question_only_by_a_positive_of_it(
    tmp_path: Path, keys: dict[str, Any], per_group: int | None
) -> None:
    """Each question has a row that judges nothing right in a group of its own and its answer in a document."""
    rows: list[Row] = []
    for i in range(150):
        useless = {"answer": f"wrong {i}", "label": 0} if keys else {"answer": ""}
        rows.append({"question": f"q {i}", "group": f"own {i}", **useless})
        right = {"question": f"q {i}", "group": f"document {i // 5}", "answer": f"right {i}"}
        rows.append({**right, "label": 1} if keys else right)
    keys = {**keys, "group_column": "group", "dev_queries": 25, "queries_per_group": per_group}
    split = loaded(write_jsonl(tmp_path / "a.jsonl", rows), validation_queries=20, **keys)
    assert split.validation is not None
    for part, questions in ((split.dev, 25), (split.validation, 20)):
        assert part.groups is not None and len(set(part.questions)) == questions
        documents = {group for group in part.groups if group.startswith("document")}
        assert len(documents) == -(-questions // (per_group or 5))
        assert documents.isdisjoint(split.train.groups or [])
