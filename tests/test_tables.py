"""JSON lines, CSV and Parquet: which files can be read, and one sentence with line and remedy for each that cannot."""

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
from pipeline.data.readers import read
from pipeline.data.source import load


def test_csv_reads_quoted_and_long_fields_with_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        '\ufeffquestion,answer\r\n"a ""quoted"", one","two\nlines"\r\n\r\nb,'.encode() + b"x" * 1_000_000 + b"\r\n"
    )
    rows = read(path, data_config(path)).rows
    assert rows.questions == ['a "quoted", one', "b"]
    assert rows.answers == ["two\nlines", "x" * 1_000_000]
    assert rows.lines == [2, 5]


def test_csv_skips_blank_lines_before_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n ,\nquestion,answer\na,b\n")
    rows = read(path, data_config(path)).rows
    assert (rows.questions, rows.answers, rows.lines) == (["a"], ["b"], [4])


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
    ("content", "sentence"),
    [
        pytest.param(
            b"",
            "{path} must hold rows, got an empty file. Write a header line, then one row per line.",
            id="empty file",
        ),
        pytest.param(
            b"\n \r\n",
            "{path} must hold rows, got an empty file. Write a header line, then one row per line.",
            id="blank lines",
        ),
        pytest.param(
            b"\nq,answer\na,b\n",
            "{path}, line 2 must have the column 'question', got the columns 'q', 'answer'. ",
            id="missing column after a blank line",
        ),
        pytest.param(
            b"question,answer\n",
            "{path} must hold rows, got an empty file. Write one question and answer per line.",
            id="header alone",
        ),
        pytest.param(
            b"q,answer\na,b\n",
            "{path}, line 1 must have the column 'question', got the columns 'q', 'answer'. "
            "Name it: data.question_column=<column>. The first line must name the columns.",
            id="missing column",
        ),
        pytest.param(
            b"question;answer\na;b\n",
            "{path}, line 1 must have the column 'question', got the columns 'question;answer'. "
            "They are separated by ';': save the file with commas, or with tabs as .tsv.",
            id="semicolons",
        ),
        pytest.param(
            b"question,answer\na,b\na,b,c\n",
            "{path}, line 3 must have 2 fields, got 3: 'a,b,c'. "
            "Quote a field that holds the separator, or save the file again as CSV.",
            id="extra field",
        ),
        pytest.param(
            b'question,answer\na,"b\n',
            "{path}, line 2 must be valid CSV, got unexpected end of data. ",
            id="open quote in the last line",
        ),
        pytest.param(
            b'question,answer\na,b\n"c,d\n' + b"e,f\n" * 40,
            "{path}, line 3 must be valid CSV, got unexpected end of data, 40 lines further on. Repair its quotes, ",
            id="open quote",
        ),
        pytest.param(
            b'question,answer\na,b\n"c,d\n' + b"e,f\n" * 40 + b'g,"h"\n',
            "{path}, line 3 must be valid CSV, got ',' expected after '\"', 41 lines further on. Repair its ",
            id="open quote and a later quote",
        ),
        pytest.param(
            b"question,answer\ra,b\r",
            "{path}, line 1 must end in LF or CRLF, got a lone CR outside quotes. "
            "Save the file with LF or CRLF line ends, and quote a field that holds a CR.",
            id="lines end in CR",
        ),
        pytest.param(
            b'question,answer\na,"b\rb"\nc\rc,d\n',
            "{path}, line 3 must end in LF or CRLF, got a lone CR outside ",
            id="CR within a field",
        ),
        pytest.param(
            b"question,answer\na,b\n\xe9,c\n", "{path}, line 3 must be UTF-8, got ", id="not UTF-8"
        ),
        pytest.param(
            b"question,answer,answer\na,b,c\n",
            "{path}, line 1 must have the column 'answer' once, got 2 of them. "
            "Rename one of them, or name another: data.answer_column=<column>.",
            id="column twice",
        ),
    ],
)  # fmt: skip
def test_broken_csv_is_refused_with_its_line(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "a.csv"
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
