"""JSON lines, Parquet and text: which files can be read, and one sentence with line and remedy for each that cannot."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_files import data_config, refusal

from pipeline.config.data import Format, Source
from pipeline.core.errors import DataError
from pipeline.data.source import load


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(
            b"", "{path} must hold rows, got an empty file. Write one question and answer per line.", id="empty file"
        ),
        pytest.param(
            b'{"question": "a", "answer": "b"}\n{"question": "a", "answer": \n',
            "{path}, line 2 must be one JSON object, got ",
            id="cut object",
        ),
        pytest.param(b'["a", "b"]\n', "{path}, line 1 must be one JSON object, got ", id="list"),
        pytest.param(
            b'[\n  {"question": "a", "answer": "b"}\n]\n',
            "{path}, line 1 must be one JSON object, got '['. Write one object per line: jq -c '.[]' a.jsonl > a-l",
            id="array over many lines",
        ),
        pytest.param(
            b'{\n  "question": "a",\n  "answer": "b"\n}\n',
            "{path}, line 1 must be one JSON object, got '{{'. Write {{\"key\": value, …}} on each line.",
            id="object over many lines",
        ),
        pytest.param(
            b'{"question": "a", "answer": "b"}\n{"question": "\xff"}\n',
            "{path}, line 2 must be UTF-8, got ",
            id="not UTF-8",
        ),
    ],
)
def test_broken_json_lines_are_refused_with_their_line(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert refusal(path).startswith(sentence.format(path=path))


@pytest.mark.parametrize(
    ("columns", "names", "keys", "sentence"),
    [
        pytest.param(
            [["a"], ["b"]], ["question", "text"], {},
            "{path} must have the column 'answer', got the columns 'question', 'text'.",
            id="missing column",
        ),
        pytest.param(
            [["a"], [1.5]], ["question", "answer"], {},
            "{path}, line 1, key 'answer' must be text, got float 1.5.",
            id="number for a text",
        ),
        pytest.param(
            [[{"text": "a"}], [["b"]]], ["question", "answer"], {},
            "{path}, line 1, key 'question' must be text, got dict ",
            id="struct for a text",
        ),
        pytest.param(
            [["a"], ["b"], ["c"]], ["question", "answer", "answer"], {},
            "{path} must have the column 'answer' once, got 2 of them.",
            id="column twice",
        ),
        pytest.param(
            [["a"], ["b"], [0], [1]], ["question", "answer", "label", "label"], {},
            "data.format must read the column 'label' of {path}, got 'pairs'. Pass data.",
            id="label column twice, in format pairs",
        ),
        pytest.param(
            [["a"], ["b"], [0], [1]], ["question", "answer", "label", "label"], {"format": Format.labelled},
            "{path} must have the column 'label' once, got 2 of them.",
            id="label column twice, in format labelled",
        ),
    ],
)  # fmt: skip
def test_parquet_columns_that_do_not_fit_are_refused(
    tmp_path: Path, columns: list[list[object]], names: list[str], keys: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns, names=names), path)
    assert refusal(path, **keys).startswith(sentence.format(path=path))


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"question": ["a" * 9999], "answer": ["b"]}), path, compression="none", use_dictionary=False
    )
    for damaged in (b"PAR1 not really", path.read_bytes()[:-400]):
        path.write_bytes(damaged)
        assert refusal(path).startswith(f"{path} must be a readable Parquet file, got ")


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("s"), pa.date32()], ids=str)
def test_date_outside_pythons_range_is_refused(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    days = pa.array([2**31 - 1], pa.int32() if kind == pa.date32() else pa.int64())
    seconds = pa.array([2**40 * (1 if kind.bit_width == 32 or kind.unit == "s" else 10**6)])
    column = days.cast(kind) if kind == pa.date32() else seconds.cast(kind)
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"], "day": column}), path)
    expected = r" must hold values that Python can read, got .*\. Write such a column as text\.$"
    assert re.match(re.escape(str(path)) + expected, refusal(path, group_column="day"))
    hub = data_config("some/set", source=Source.hub, group_column="day")
    with pytest.raises(DataError, match=r"^some/set \(.*\)" + expected):
        load(hub, source=tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.jsonl", gzip.compress(b'{"question": "a", "answer": "b"}\n'), "It is compressed: unpack it first."),
        ("a.csv", gzip.compress(b"question,answer\na,b\n"), "It is compressed: unpack it first."),
        (
            "a.csv",
            b"PK\x03\x04\xff\xfe",
            "It is compressed, or a spreadsheet: unpack it, or save the sheet as CSV in UTF-8.",
        ),
        ("a.jsonl", "question,answer\na,b\n".encode("utf-16"), "Save the file as UTF-8."),
        ("a.csv", "question,answer\na,b\n".encode("utf-16"), "Save the file as UTF-8."),
    ],
    ids=["gzip as .jsonl", "gzip as .csv", "spreadsheet as .csv", "UTF-16 as .jsonl", "UTF-16 as .csv"],
)
def test_non_utf_8_file_refusal_names_the_remedy(tmp_path: Path, name: str, content: bytes, remedy: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(path).endswith(f". {remedy}")
