"""Columns that the format `pairs` does not read: a configured one is refused, one that may judge answers warns."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_files import data_config, load_split, pair_rows, refusal, write_jsonl, write_rows

from pipeline.config.data import Format, Source
from pipeline.core.errors import DataError
from pipeline.data.source import load
from pipeline.data.unread_columns import UnreadColumns


def unread_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [message for message in warnings if "ignored" in message]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("column", "cell", "remedy"),
    [("label", 0, "Pass data.format=labelled, or "), ("negatives", [], "Pass data.format=negatives, or ")],
    ids=["label", "negatives"],
)
def test_label_or_negatives_column_is_refused_in_format_pairs(
    tmp_path: Path, suffix: str, column: str, cell: object, remedy: str
) -> None:
    path = write_rows(tmp_path / f"a{suffix}", [{"question": "a", "answer": "b", column: cell}])
    assert refusal(path) == (
        f"data.format must read the column '{column}' of {path}, got 'pairs'. "
        f"{remedy}data.{column}_column=<another name> if it means something else."
    )


def test_label_column_may_point_elsewhere_to_ignore_a_column(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{**row, "label": "easy"} for row in pair_rows(150)])
    assert len(load_split(path, label_column="relevance").train) > 0


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        pytest.param("Relevance", ["Irrelevant"], "label", id="usual name in capitals"),
        pytest.param("Label", ["Irrelevant"], "label", id="configured name in capitals"),
        pytest.param("Negatives", ["Irrelevant"], "negatives", id="configured name of negatives in capitals"),
        pytest.param("negative", ["Irrelevant"], "negatives", id="usual name of negatives"),
        pytest.param("url", ["Irrelevant"], None, id="text under another name"),
        pytest.param("clicked", [1, 0, 0], "label", id="clicks"),
        pytest.param("Clicks", [12, 0, 3], "label", id="counts of clicks"),
        pytest.param("score", [0.5, 1.5, 2.5], "label", id="scores"),
        pytest.param("target", ["good", "bad"], "label", id="texts as classes"),
        pytest.param("flag", [True, False], "label", id="booleans under another name"),
        pytest.param("flag", [1, 0, 0, None], "label", id="zeros, ones and nulls under another name"),
        pytest.param("how_good", [3, 2, 0], "label", id="grades under another name"),
        pytest.param("flag", [1.0, 0.0, None], "label", id="floats and nulls under another name"),
        pytest.param("clicked", [1], None, id="only ones: the wrong answers were left out"),
        pytest.param("target", [f"text {i}" for i in range(150)], None, id="texts under a usual name"),
        pytest.param("id", list(range(150)), None, id="ids"),
        pytest.param("product", [0, 7, 12], None, id="numbers that are no grades"),
        pytest.param("words", [1, 2, 3], None, id="numbers without zero"),
        pytest.param("year", [1999, 2000], None, id="years"),
        pytest.param("language", ["en", "de"], None, id="classes under another name"),
        pytest.param("empty", [None], None, id="empty"),
    ],
)
def test_unread_column_that_may_mark_wrong_answers_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, column: str, values: list[Any], kind: str | None
) -> None:
    rows = [{**row, column: values[i % len(values)]} for i, row in enumerate(pair_rows(150))]
    if suffix == "jsonl":  # not every row has the key, the first one neither
        for number, row in enumerate(rows):
            if row[column] is None or number == 0:
                del row[column]
    path = write_rows(tmp_path / f"a.{suffix}", rows)
    load_split(path)
    expected = f"{path}: ignored {column!r}, so every row counts as a right answer. If it marks wrong ones, pass "
    data_format = {"label": "labelled", "negatives": "negatives"}
    if kind == "label" and isinstance(values[0], str):
        expected = expected.replace("ones, pass", "ones, write 0 or 1 in place of the texts and pass")
    assert unread_warnings(caplog) == (
        [] if kind is None else [f"{expected}data.format={data_format[kind]} data.{kind}_column={column}"]
    )


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        ({"relevant": ["yes", "no"]}, "write 0 or 1 in place of the texts and pass {}relevant"),
        ({"relevant": ["yes", "no"], "flag": ["true", "false"]}, "pass {}flag"),
        ({"score": [0.25, 0.5]}, "pass {}score data.positive_threshold=<lowest right value>"),
        ({"score": [0.25, 1]}, "pass {}score"),
        ({"clicked": [0, None]}, "pass {}clicked data.positive_threshold=<lowest right value>"),
    ],
    ids=["texts", "texts and booleans", "scores below 1", "scores up to 1", "zeros"],
)
def test_suggested_label_column_is_one_that_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, columns: dict[str, list[Any]], remedy: str
) -> None:
    rows = [{**row, **{c: values[i % 2] for c, values in columns.items()}} for i, row in enumerate(pair_rows(150))]
    load_split(write_jsonl(tmp_path / "a.jsonl", rows))
    (message,) = unread_warnings(caplog)
    assert message.endswith("If it marks wrong ones, " + remedy.format("data.format=labelled data.label_column="))


def test_unread_column_of_a_usual_name_is_named_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"has_code": i % 2, **row, "rank": [i], "clicked": i % 3 > 0} for i, row in enumerate(pair_rows(150))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    load_split(path)
    (message,) = unread_warnings(caplog)
    assert "ignored 'clicked', 'has_code', so" in message and message.endswith("data.label_column=clicked")


def test_format_that_reads_labels_warns_of_no_unread_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"has_code": i % 2, **row, "rank": [i], "clicked": i % 3 > 0} for i, row in enumerate(pair_rows(150))]
    load_split(write_jsonl(tmp_path / "a.jsonl", rows), format=Format.labelled, label_column="clicked")
    assert not unread_warnings(caplog)


def test_unread_columns_of_a_hub_data_set_are_watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**row, "flag": i % 2 == 0, "year": 2000 + i % 5, "tag": "a"} for i, row in enumerate(pair_rows(150))]
    folder = tmp_path / "snapshot"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    load(data_config("some/set", source=Source.hub), source=folder, cache=tmp_path / "cache")
    (message,) = unread_warnings(caplog)
    assert "ignored 'flag', so" in message and message.endswith("data.format=labelled data.label_column=flag")


def test_column_of_negatives_is_named_without_being_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unread = UnreadColumns(data_config("a.parquet"), "a.parquet")
    assert not unread.watches("hard_negatives", is_number=False)
    unread.warn()
    (message,) = unread_warnings(caplog)
    assert "ignored 'hard_negatives', so" in message and message.endswith("data.negatives_column=hard_negatives")
    with pytest.raises(DataError, match=r"data\.format must read the column 'negatives'"):
        unread.note({"negatives": []})
    assert unread.watches("negatives", is_number=False), "a column that is refused is read"
