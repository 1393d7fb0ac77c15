"""Rows: keys and types are checked with the line, texts repaired and counted, labels, negatives and groups read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_files import Row, data_config, pair_rows, refusal, write_jsonl, write_rows

from pipeline.config.data import Format
from pipeline.core.errors import DataError
from pipeline.data.readers import Loaded, read


def read_file(path: Path, **keys: Any) -> Loaded:
    return read(path, data_config(path, **keys))


def test_nul_and_lone_surrogates_are_replaced_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "cut \\ud83d", "answer": "nul\\u0000here \\ud83d\\ude00"}\n')
    source = read_file(path)
    assert source.rows.questions == ["cut \ufffd"]
    assert source.rows.answers == ["nul here \U0001f600"]
    assert source.counts == {"texts_with_lone_surrogate": 1, "texts_with_nul": 1}


# Keys and types


@pytest.mark.parametrize(
    ("rows", "keys", "sentence"),
    [
        pytest.param(
            [{"question": "a", "answer": "b"}, {"question": "a", "text": "b"}], {},
            "{path}, line 2 must have the key 'answer', got 'question', 'text'. "
            "Earlier lines have it: add it to this one (data.answer_column names the key).",
            id="answer missing in a later line",
        ),
        pytest.param(
            [{"question": "a", "answer": "b"}], {"format": Format.labelled},
            "{path}, line 1 must have the key 'label', got 'question', 'answer'. "
            "Name the key that holds it: data.label_column=<key>.",
            id="label missing",
        ),
        pytest.param(
            [{"question": "a", "answer": "b", "label": 1}, {"question": "a", "answer": "b"}],
            {"format": Format.labelled},
            "{path}, line 2 must have the key 'label', got 'question', 'answer'. Earlier lines have it: add it to ",
            id="label missing in a later line",
        ),
        pytest.param(
            [{"question": "a", "text": "b"}], {},
            "{path}, line 1 must have the key 'answer', got 'question', 'text'. "
            "Name the key that holds it: data.answer_column=<key>.",
            id="answer missing",
        ),
        pytest.param(
            [{"faqs": [{"question": "a", "answer": "b"}]}], {},
            "{path}, line 1 must have the key 'question', got 'faqs'. Write one object per line: jq -c '.faqs[]' <f",
            id="rows nested in one object",
        ),
        pytest.param(
            [{"question": 3, "answer": "b"}], {},
            "{path}, line 1, key 'question' must be text, got int 3. "
            "Write it as a string, or name another key: data.question_column.",
            id="question is a number",
        ),
        pytest.param(
            [{"question": "a", "answer": ["b"]}], {},
            "{path}, line 1, key 'answer' must be text, got list [\"b\"]. "
            "Write it as a string, or name another key: data.answer_column.",
            id="answer is a list",
        ),
        pytest.param(
            [{"question": "a", "answer": "b", "label": "yes"}], {"format": Format.labelled},
            "{path}, line 1, key 'label' must be a number from -1000 to 1000, got str \"yes\". Write 0 or 1, ",
            id="label is a text",
        ),
        pytest.param(
            [{"question": "a", "answer": "b", "label": math.nan}], {"format": Format.labelled},
            "{path}, line 1, key 'label' must be a number from -1000 to 1000, got float NaN. Write 0 or 1, or",
            id="label is NaN",
        ),
        pytest.param(
            [{"question": "a", "answer": "b", "label": 1000}, {"question": "a", "answer": "b", "label": 1e300}],
            {"format": Format.labelled},
            "{path}, line 2, key 'label' must be a number from -1000 to 1000, got float 1e+300. Write 0 or 1, ",
            id="label too large",
        ),
        pytest.param(
            [{"question": "a", "answer": "b", "label": -1001}], {"format": Format.labelled},
            "{path}, line 1, key 'label' must be a number from -1000 to 1000, got int -1001. Write 0 or 1, ",
            id="label too small",
        ),
        pytest.param(
            [{"question": "a", "answer": "b", "negatives": ["c", 4]}], {"format": Format.negatives},
            "{path}, line 1, key 'negatives' must hold only texts, got int 4. Write [\"passage\", …].",
            id="number among the negatives",
        ),
        pytest.param(
            [{"question": "a", "answer": "b", "negatives": 4}], {"format": Format.negatives},
            "{path}, line 1, key 'negatives' must be a text or a list of texts, got int 4. Write [\"passage\", …].",
            id="negatives are a number",
        ),
    ],
)  # fmt: skip
def test_row_that_does_not_fit_is_refused_with_line_and_key(
    tmp_path: Path, rows: list[Row], keys: dict[str, Any], sentence: str
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert refusal(path, **keys).startswith(sentence.format(path=path))


@pytest.mark.parametrize("value", [3, 2.5, True, ["a"], {"a": 1}], ids=["int", "float", "bool", "list", "object"])
@pytest.mark.parametrize("column", ["question", "answer"])
def test_value_that_is_no_text_is_refused_with_its_line(tmp_path: Path, value: object, column: str) -> None:
    rows = pair_rows(120)
    rows[41][column] = value
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    message = refusal(path)
    assert message.startswith(f"{path}, line 42, key '{column}' must be text, got ") and message.isprintable()


# Labels, negatives and groups


def test_label_of_a_csv_file_may_be_a_boolean_of_pandas(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer,label\nq,a,True\nq,b,false\n")
    assert read_file(path, format=Format.labelled).rows.labels == [1.0, 0.0]


def test_negatives_are_the_same_in_json_lines_csv_and_parquet(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"question": "q", "answer": "a", "negatives": ["n", " ", "m"]},
        {"question": "r", "answer": "b", "negatives": None},
    ]
    jsonl, parquet = write_rows(tmp_path / "a.jsonl", rows), write_rows(tmp_path / "a.parquet", rows)
    csv = tmp_path / "a.csv"
    csv.write_text('question,answer,negatives\nq,a,"[""n"", "" "", ""m""]"\nr,b,\n')
    for path in (jsonl, parquet, csv):
        source = read_file(path, format=Format.negatives)
        assert source.rows.negatives == [["n", "m"], []], path
        assert source.counts == {"blank_negatives_dropped": 1}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("[one] text", ["[one] text"]),
        ("[2020]", ["[2020]"]),
        ('["n", "m"]', ["n", "m"]),
        (None, []),
    ],
    ids=["text", "text that looks like a list of numbers", "JSON list", "null"],
)
def test_negatives_of_json_lines_may_be_a_text_a_json_list_or_null(
    tmp_path: Path, cell: str | None, expected: list[str]
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a", "negatives": cell}])
    assert read_file(path, format=Format.negatives).rows.negatives == [expected]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("one text", ["one text"]), ("[1] as Smith has it", ["[1] as Smith has it"]), ("", [])],
    ids=["text", "text that starts like a list", "empty"],
)
def test_negatives_of_csv_may_be_a_text_or_empty(tmp_path: Path, cell: str, expected: list[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"question,answer,negatives\nq,a,{cell}\n")
    assert read_file(path, format=Format.negatives).rows.negatives == [expected]


def test_null_among_the_negatives_of_parquet_is_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.pq"
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"], "negatives": [["n", None, "m"]]}), path)
    source = read_file(path, format=Format.negatives)
    assert source.rows.negatives == [["n", "m"]] and source.counts == {"blank_negatives_dropped": 1}


@pytest.mark.parametrize(
    "cell",
    ["['n one', 'n two']", '[ "n one", "n two"', '["n", 3]'],
    ids=["Python list", "list without its end", "list with a number"],
)
def test_negatives_of_csv_that_are_no_json_list_are_refused(tmp_path: Path, cell: str) -> None:
    path = write_rows(tmp_path / "a.csv", [{"question": "q", "answer": "a", "negatives": cell}])
    with pytest.raises(DataError, match="line 2, key 'negatives' must be a JSON list of texts, got str "):
        read_file(path, format=Format.negatives)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_row_without_group_gets_its_own_group(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".jsonl":
        cells: list[Any] = [None, math.nan, "", " \u200b", 0, "x"]
        write_jsonl(path, [{"question": "q", "answer": "a", "g": cell} for cell in cells])
    elif suffix == ".csv":
        cells = ["", " ", "", "\t", "0", "x"]
        path.write_text("question,answer,g\n" + "".join(f"q,a,{cell}\n" for cell in cells))
    else:
        cells = [None, math.nan, math.nan, None, 0.0, 7.0]
        columns = {"question": ["q"] * 6, "answer": ["a"] * 6, "g": pa.array(cells, from_pandas=False)}
        pq.write_table(pa.table(columns), path)
    source = read_file(path, group_column="g")
    groups = source.rows.groups or []
    assert source.counts == {"rows_without_group": 4}
    assert len(set(groups)) == 6 and groups[4:] == [str(cells[4]), str(cells[5])]
