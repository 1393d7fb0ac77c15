"""Sources, the order of the steps, the split's promises, and every refusal's sentence, on real files."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import math
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.data import DataConfig, Format, MiningConfig, Retriever, Source
from pipeline.core.errors import DataError
from pipeline.core.records import PairRows, Split, fold
from pipeline.data.content import content_digest
from pipeline.data.readers import read
from pipeline.data.source import load
from pipeline.data.splitting import Held, hold_out, subset, whole_questions
from pipeline.mining.miner import mine

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

Row = dict[str, Any]


def rows_of(number: int) -> list[Row]:
    return [{"question": f"what is thing {i}", "answer": f"Thing {i} is number {i}."} for i in range(number)]


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(path: Path | str, **keys: Any) -> DataConfig:
    return DataConfig(**{"source": Source.local, "name": "x", "path": str(path), **keys})


def loaded(path: Path, **keys: Any) -> Split:
    return load(config(path, **keys), source=None, cache=path.parent / "cache")


def refusal(path: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as error:
        loaded(path, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def pairs(part: PairRows) -> list[tuple[str, str]]:
    return list(zip(part.questions, part.answers, strict=True))


# Reading


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", rows_of(150))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_split(jsonl: Path, suffix: str) -> None:
    other = jsonl.with_suffix(suffix)
    rows = rows_of(150)
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), other)
    else:
        with other.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["question", "answer"], delimiter="," if suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    expected, got = loaded(jsonl), loaded(other)
    assert pairs(got.train) == pairs(expected.train)
    assert pairs(got.dev) == pairs(expected.dev)
    assert got.corpus == expected.corpus


def test_csv_with_marks_line_breaks_and_long_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        '\ufeffquestion,answer\r\n"a ""quoted"", one","two\nlines"\r\n\r\nb,'.encode() + b"x" * 1_000_000 + b"\r\n"
    )
    rows = read(path, config(path)).rows
    assert rows.questions == ['a "quoted", one', "b"]
    assert rows.answers == ["two\nlines", "x" * 1_000_000]
    assert rows.lines == [2, 5]


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "x", "a": "y", "question": 1, "site": None}])
    rows = read(path, config(path, question_column="q", answer_column="a", group_column="site")).rows
    assert (rows.questions, rows.answers, rows.groups) == (["x"], ["y"], ["row 1"])


def test_odd_text_is_kept_readable_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "cut \\ud83d", "answer": "nul\\u0000here \\ud83d\\ude00"}\n')
    source = read(path, config(path))
    assert source.rows.questions == ["cut \ufffd"]
    assert source.rows.answers == ["nul here \U0001f600"]
    assert source.counts == {"texts_with_lone_surrogate": 1, "texts_with_nul": 1}


def test_what_was_put_right_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = rows_of(150)
    rows[3]["answer"] += " nul\0"
    rows[4]["question"] += " cut \ud83d"
    rows[5]["answer"] += " cut \ud83d"
    with caplog.at_level(logging.INFO):
        loaded(write_jsonl(tmp_path / "a.jsonl", rows))
    said = "fixed while reading: 1 texts with NUL (now a space); 2 texts with half a surrogate pair (now U+FFFD)"
    assert said in [record.message for record in caplog.records]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        loaded(write_jsonl(tmp_path / "a.jsonl", rows_of(150)))
    assert "fixed" not in caplog.text


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_missing_group_is_one_of_its_own(tmp_path: Path, suffix: str) -> None:
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
    source = read(path, config(path, group_column="g"))
    assert source.counts == {"rows_without_group": 4}
    assert len(set(source.rows.groups or [])) == 6 and (source.rows.groups or [])[4:] == [str(cells[4]), str(cells[5])]


def test_labelled_rows_and_questions_without_a_positive(tmp_path: Path) -> None:
    rows = [{**row, "label": 2} for row in rows_of(120)]
    rows += [{**row, "answer": "No.", "label": 0} for row in rows_of(120)]
    rows += [{"question": f"unanswered {i}", "answer": "No.", "label": 1} for i in range(30)]
    split = loaded(write_jsonl(tmp_path / "a.jsonl", rows), format=Format.labelled, positive_threshold=2)
    assert Counter(split.train.labels or []) == {2.0: 96, 0.0: 96}
    assert Counter(split.dev.labels or []) == {2.0: 24, 0.0: 24}
    assert split.statistics["parts"]["train"]["dropped"] == {"question_without_positive": 30}  # type: ignore[index]


def test_a_pair_with_another_label_or_other_negatives_is_no_duplicate(tmp_path: Path) -> None:
    labelled = [{**row, "label": label} for label in (0, 1, 1) for row in rows_of(120)]
    split = loaded(write_jsonl(tmp_path / "a.jsonl", labelled), format=Format.labelled)
    assert Counter([*(split.train.labels or []), *(split.dev.labels or [])]) == {0.0: 120, 1.0: 120}
    listed = [{**row, "negatives": [name]} for name in ("n", "m", "m") for row in rows_of(120)]
    split = loaded(write_jsonl(tmp_path / "b.jsonl", listed), format=Format.negatives)
    assert len(split.train) + len(split.dev) == 240


def test_given_negatives_from_json_parquet_and_csv(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a", "negatives": ["n", " ", "m"]}, {"question": "r", "answer": "b"}]
    rows[1]["negatives"] = None  # type: ignore[assignment]
    json_file = write_jsonl(tmp_path / "a.jsonl", rows)
    parquet_file, csv_file = tmp_path / "a.parquet", tmp_path / "a.csv"
    pq.write_table(pa.Table.from_pylist(rows), parquet_file)
    csv_file.write_text('question,answer,negatives\nq,a,"[""n"", "" "", ""m""]"\nr,b,\n')
    for path in (json_file, parquet_file, csv_file):
        source = read(path, config(path, format=Format.negatives))
        assert source.rows.negatives == [["n", "m"], []], path
        assert source.counts == {"blank_negatives_dropped": 1}


@pytest.mark.parametrize("cell", ["['n one', 'n two']", '[ "n one", "n two"', '["n", 3]'])
def test_a_list_of_negatives_that_is_no_json_is_refused_in_a_csv_file(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["question", "answer", "negatives"], ["q", "a", cell]])
    with pytest.raises(DataError, match="line 2, key 'negatives' must be a JSON list of texts, got str "):
        read(path, config(path, format=Format.negatives))


def test_a_text_that_looks_like_a_list_of_numbers_is_a_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a", "negatives": "[2020]"}])
    assert read(path, config(path, format=Format.negatives)).rows.negatives == [["[2020]"]]


def test_labels_of_a_csv_file_may_be_the_booleans_of_pandas(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer,label\nq,a,True\nq,b,false\n")
    assert read(path, config(path, format=Format.labelled)).rows.labels == [1.0, 0.0]


def test_a_negative_of_a_triple_is_one_text_and_a_missing_one_of_a_list_is_none(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a", "negatives": "[one] text"}, {"question": "r", "answer": "b"}]
    rows[1]["negatives"] = None  # type: ignore[assignment]
    json_file, csv_file, parquet_file = write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "a.csv", tmp_path / "a.pq"
    csv_file.write_text("question,answer,negatives\nq,a,one text\nr,b,\n")
    for path, text in ((json_file, "[one] text"), (csv_file, "one text")):
        assert read(path, config(path, format=Format.negatives)).rows.negatives == [[text], []]
    csv_file.write_text("question,answer,negatives\nq,a,[1] as Smith has it\n")
    assert read(csv_file, config(csv_file, format=Format.negatives)).rows.negatives == [["[1] as Smith has it"]]
    write_jsonl(json_file, [{"question": "q", "answer": "a", "negatives": json.dumps(["n", "m"])}])
    assert read(json_file, config(json_file, format=Format.negatives)).rows.negatives == [["n", "m"]]
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"], "negatives": [["n", None, "m"]]}), parquet_file)
    source = read(parquet_file, config(parquet_file, format=Format.negatives))
    assert source.rows.negatives == [["n", "m"]] and source.counts == {"blank_negatives_dropped": 1}


def test_a_spreadsheet_or_a_packed_folder_is_told_what_to_do(tmp_path: Path) -> None:
    sheet = tmp_path / "a.xlsx"
    sheet.write_bytes(b"PK\x03\x04\xff\xfe")
    assert refusal(sheet).endswith("got '.xlsx'. Save the sheet as CSV in UTF-8.")
    assert refusal(sheet.rename(tmp_path / "a.csv")).endswith("unpack it, or save the sheet as CSV in UTF-8.")
    (tmp_path / "beir").mkdir()
    (tmp_path / "beir" / "queries.jsonl.gz").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"file queries\.jsonl must exist, got nothing there\. Unpack queries\.jsonl\.gz "
    ):
        content_digest(config(tmp_path / "beir", format=Format.beir), source=None, cache=tmp_path)


def test_given_negatives_are_searched_too(tmp_path: Path) -> None:
    rows = [{**row, "negatives": ["wrong", row["answer"]]} for row in rows_of(100)]
    split = loaded(write_jsonl(tmp_path / "a.jsonl", rows), format=Format.negatives)
    assert set(split.corpus) == {"wrong", *(row["answer"] for row in rows)}
    assert split.corpus[0] == split.train.answers[0]


# Refusals


@pytest.mark.parametrize(
    ("content", "keys", "sentence"),
    [
        (b"", {}, "{path} must hold rows, got an empty file. Write one question and answer per line."),
        (
            b'{"question": "a", "answer": "b"}\n{"question": "a", "answer": \n',
            {},
            "{path}, line 2 must be one JSON object, got ",
        ),
        (b'["a", "b"]\n', {}, "{path}, line 1 must be one JSON object, got "),
        (
            b'[\n  {"question": "a", "answer": "b"}\n]\n',
            {},
            "{path}, line 1 must be one JSON object, got '['. Write one object per line: jq -c '.[]' a.jsonl > a-l",
        ),
        (
            b'{\n  "question": "a",\n  "answer": "b"\n}\n',
            {},
            "{path}, line 1 must be one JSON object, got '{{'. Write {{\"key\": value, …}} on each line.",
        ),
        (b'{"question": "a", "answer": "b"}\n{"question": "\xff"}\n', {}, "{path}, line 2 must be UTF-8, got "),
        (
            b'{"question": "a", "answer": "b"}\n{"question": "a", "text": "b"}\n',
            {},
            "{path}, line 2 must have the key 'answer', got 'question', 'text'. "
            "Earlier lines have it: add it to this one (data.answer_column names the key).",
        ),
        (
            b'{"question": "a", "answer": "b"}\n',
            {"format": Format.labelled},
            "{path}, line 1 must have the key 'label', got 'question', 'answer'. "
            "Name the key that holds it: data.label_column=<key>.",
        ),
        (
            b'{"question": "a", "answer": "b", "label": 1}\n{"question": "a", "answer": "b"}\n',
            {"format": Format.labelled},
            "{path}, line 2 must have the key 'label', got 'question', 'answer'. Earlier lines have it: add it to ",
        ),
        (
            b'{"question": "a", "text": "b"}\n',
            {},
            "{path}, line 1 must have the key 'answer', got 'question', 'text'. "
            "Name the key that holds it: data.answer_column=<key>.",
        ),
        (
            b'{"question": "a", "answer": "b", "label": 0}\n',
            {},
            "data.format must read the column 'label' of {path}, got 'pairs'. "
            "Pass data.format=labelled, or data.label_column=<another name> if it means something else.",
        ),
        (
            b'{"question": "a", "answer": "b", "negatives": []}\n',
            {},
            "data.format must read the column 'negatives' of {path}, got 'pairs'. Pass data.format=negatives, or ",
        ),
        (
            b'{"question": 3, "answer": "b"}\n',
            {},
            "{path}, line 1, key 'question' must be text, got int 3. "
            "Write it as a string, or name another key: data.question_column.",
        ),
        (
            b'{"question": "a", "answer": ["b"]}\n',
            {},
            "{path}, line 1, key 'answer' must be text, got list [\"b\"]. "
            "Write it as a string, or name another key: data.answer_column.",
        ),
        (
            b'{"question": "a", "answer": "b", "label": "yes"}\n',
            {"format": Format.labelled},
            "{path}, line 1, key 'label' must be a number from -1000 to 1000, got str \"yes\". Write 0 or 1, ",
        ),
        (
            b'{"question": "a", "answer": "b", "label": NaN}\n',
            {"format": Format.labelled},
            "{path}, line 1, key 'label' must be a number from -1000 to 1000, got float NaN. Write 0 or 1, or",
        ),
        (
            b'{"question": "a", "answer": "b", "label": 1000}\n{"question": "a", "answer": "b", "label": 1e300}\n',
            {"format": Format.labelled},
            "{path}, line 2, key 'label' must be a number from -1000 to 1000, got float 1e+300. Write 0 or 1, ",
        ),
        (
            b'{"question": "a", "answer": "b", "label": -1001}\n',
            {"format": Format.labelled},
            "{path}, line 1, key 'label' must be a number from -1000 to 1000, got int -1001. Write 0 or 1, ",
        ),
        (
            b'{"question": "a", "answer": "b", "negatives": ["c", 4]}\n',
            {"format": Format.negatives},
            "{path}, line 1, key 'negatives' must hold only texts, got int 4. Write [\"passage\", …].",
        ),
        (
            b'{"question": "a", "answer": "b", "negatives": 4}\n',
            {"format": Format.negatives},
            "{path}, line 1, key 'negatives' must be a text or a list of texts, got int 4. Write [\"passage\", …].",
        ),
        (
            b'{"faqs": [{"question": "a", "answer": "b"}]}\n',
            {},
            "{path}, line 1 must have the key 'question', got 'faqs'. Write one object per line: jq -c '.faqs[]' <f",
        ),
        (
            b'{"question": "a", "answer": "b"}\n',
            {},
            "{path} must hold at least 100 usable questions, got 1. "
            "Give more rows, or check data.question_column and data.answer_column.",
        ),
    ],
)
def test_bad_json_lines(tmp_path: Path, content: bytes, keys: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert refusal(path, **keys).startswith(sentence.format(path=path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "{path} must hold rows, got an empty file. Write a header line, then one row per line."),
        (b"\n \r\n", "{path} must hold rows, got an empty file. Write a header line, then one row per line."),
        (
            b"\nq,answer\na,b\n",
            "{path}, line 2 must have the column 'question', got the columns 'q', 'answer'. ",
        ),
        (b"question,answer\n", "{path} must hold rows, got an empty file. Write one question and answer per line."),
        (
            b"q,answer\na,b\n",
            "{path}, line 1 must have the column 'question', got the columns 'q', 'answer'. "
            "Name it: data.question_column=<column>. The first line must name the columns.",
        ),
        (
            b"question;answer\na;b\n",
            "{path}, line 1 must have the column 'question', got the columns 'question;answer'. "
            "They are separated by ';': save the file with commas, or with tabs as .tsv.",
        ),
        (
            b"question,answer,label\na,b,0\n",
            "data.format must read the column 'label' of {path}, got 'pairs'. Pass data.format=labelled, or ",
        ),
        (
            b"question,answer\na,b\na,b,c\n",
            "{path}, line 3 must have 2 fields, got 3: 'a,b,c'. "
            "Quote a field that holds the separator, or save the file again as CSV.",
        ),
        (b'question,answer\na,"b\n', "{path}, line 2 must be valid CSV, got unexpected end of data. "),
        (
            b'question,answer\na,b\n"c,d\n' + b"e,f\n" * 40,
            "{path}, line 3 must be valid CSV, got unexpected end of data, 40 lines further on. Repair its quotes, ",
        ),
        (
            b'question,answer\na,b\n"c,d\n' + b"e,f\n" * 40 + b'g,"h"\n',
            "{path}, line 3 must be valid CSV, got ',' expected after '\"', 41 lines further on. Repair its ",
        ),
        (
            b"question,answer\ra,b\r",
            "{path}, line 1 must end in LF or CRLF, got a lone CR outside quotes. "
            "Save the file with LF or CRLF line ends, and quote a field that holds a CR.",
        ),
        (b'question,answer\na,"b\rb"\nc\rc,d\n', "{path}, line 3 must end in LF or CRLF, got a lone CR outside "),
        (b"question,answer\na,b\n\xe9,c\n", "{path}, line 3 must be UTF-8, got "),
        (
            b"question,answer,answer\na,b,c\n",
            "{path}, line 1 must have the column 'answer' once, got 2 of them. "
            "Rename one of them, or name another: data.answer_column=<column>.",
        ),
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert refusal(path).startswith(sentence.format(path=path))


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 not really")
    assert refusal(path).startswith(f"{path} must be a readable Parquet file, got ")
    pq.write_table(pa.table({"question": ["a"], "text": ["b"]}), path)
    assert refusal(path).startswith(f"{path} must have the column 'answer', got the columns 'question', 'text'.")
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"], "label": [0]}), path)
    assert refusal(path).startswith(f"data.format must read the column 'label' of {path}, got 'pairs'. Pass data.")
    pq.write_table(pa.table({"question": ["a"], "answer": [1.5]}), path)
    assert refusal(path).startswith(f"{path}, line 1, key 'answer' must be text, got float 1.5.")
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["question", "answer", "answer"]), path)
    assert refusal(path).startswith(f"{path} must have the column 'answer' once, got 2 of them.")
    names = ["question", "answer", "label", "label"]
    pq.write_table(pa.table([["a"], ["b"], [0], [1]], names=names), path)
    assert refusal(path).startswith(f"data.format must read the column 'label' of {path}, got 'pairs'. Pass data.")
    assert refusal(path, format=Format.labelled).startswith(f"{path} must have the column 'label' once, got 2 of them.")
    pq.write_table(pa.table({"question": [{"text": "a"}], "answer": [["b"]]}), path)
    assert refusal(path).startswith(f"{path}, line 1, key 'question' must be text, got dict ")
    whole = tmp_path / "whole.parquet"
    pq.write_table(
        pa.table({"question": ["a" * 9999], "answer": ["b"]}), whole, compression="none", use_dictionary=False
    )
    path.write_bytes(whole.read_bytes()[:-400])
    assert refusal(path).startswith(f"{path} must be a readable Parquet file, got ")


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("s"), pa.date32()], ids=str)
def test_a_date_that_python_has_not_is_one_sentence(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    days = pa.array([2**31 - 1], pa.int32() if kind == pa.date32() else pa.int64())
    seconds = pa.array([2**40 * (1 if kind.bit_width == 32 or kind.unit == "s" else 10**6)])
    column = days.cast(kind) if kind == pa.date32() else seconds.cast(kind)
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"], "day": column}), path)
    said = r" must hold values that Python can read, got .*\. Write such a column as text\.$"
    assert re.match(re.escape(str(path)) + said, refusal(path, group_column="day"))
    section = config("some/set", source=Source.hub, group_column="day")
    with pytest.raises(DataError, match=r"^some/set \(.*\)" + said):
        load(section, source=tmp_path, cache=tmp_path / "cache")


def test_a_csv_may_begin_with_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n ,\nquestion,answer\na,b\n")
    rows = read(path, config(path)).rows
    assert (rows.questions, rows.answers, rows.lines) == (["a"], ["b"], [4])


def test_a_corpus_that_is_a_table_is_told_that_only_jsonl_is_read(jsonl: Path) -> None:
    for suffix, content in ((".csv", b"text\na\n"), (".parquet", b"PAR1\xff")):
        corpus = jsonl.parent / f"corpus{suffix}"
        corpus.write_bytes(content)
        assert refusal(jsonl, corpus_path=str(corpus)) == (
            f'{corpus} must be JSONL, got a {suffix} file. Only JSONL is read here: write {{"text": …}} on each line.'
        )


def test_a_folder_of_save_to_disk_is_told_how_to_give_it(tmp_path: Path) -> None:
    import datasets

    whole = datasets.Dataset.from_list(rows_of(4))
    for number, saved in enumerate((whole, datasets.DatasetDict({"train": whole}))):
        folder = tmp_path / str(number)
        saved.save_to_disk(str(folder))
        with pytest.raises(
            DataError, match=r"must be a data set repository, got a folder made by save_to_disk\. Write "
        ):
            load(config("some/set", source=Source.hub), source=folder, cache=tmp_path / "cache")


def test_a_column_that_means_something_else_is_passed_over(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{**row, "label": "easy"} for row in rows_of(150)])
    assert len(loaded(path, label_column="relevance").train) > 0


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_in_another_encoding_or_compressed_is_told_what_to_do(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(b'{"question": "a", "answer": "b"}\n'))
    assert refusal(path).endswith(". It is compressed: unpack it first.")
    path.write_bytes("question,answer\na,b\n".encode("utf-16"))
    assert refusal(path).endswith(". Save the file as UTF-8.")
    assert refusal(path.rename(tmp_path / "a.jsonl.gz")).endswith("got '.gz'. Unpack it first.")


@pytest.mark.parametrize("name", ["a b/c d.jsonl", "dätä/漢字.jsonl", "[a]*?.jsonl", "a=b,c's.jsonl", "a\nb.jsonl"])
def test_a_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    assert len(loaded(write_jsonl(path, rows_of(120))).train) > 0


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    rows = [{"q.u": row["question"], "": row["answer"]} for row in rows_of(120)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    keys = {"question_column": "q.u", "answer_column": ""}
    assert pairs(loaded(path, **keys).train) == pairs(loaded(table, **keys).train)


def test_bad_paths(tmp_path: Path, jsonl: Path) -> None:
    assert refusal(tmp_path / "no.jsonl") == (
        f"{tmp_path}/no.jsonl must exist, got nothing there. Correct data.path (or data.dev_path)."
    )
    assert "must be a file, got a folder" in refusal(tmp_path)
    (tmp_path / "a.xlsx").write_bytes(b"x")
    assert "a.xlsx must end in one of .jsonl, .ndjson, .json, .csv, .tsv, .tab, .parquet, .pq" in refusal(
        tmp_path / "a.xlsx"
    )
    for key in ("dev_path", "corpus_path"):
        assert refusal(jsonl, **{key: "no.jsonl"}).startswith(f"data.{key}=no.jsonl must exist, got nothing there.")
    assert "must be a folder in the BEIR layout" in refusal(jsonl, format=Format.beir)


# Order and cleaning


def test_the_split_is_made_before_cleaning_and_drops_are_counted(tmp_path: Path) -> None:
    rows = rows_of(200)
    dirty = [*rows, *rows[:50], {"question": " ", "answer": "x"}, {"question": "null answer", "answer": None}]
    path = write_jsonl(tmp_path / "a.jsonl", dirty)
    kept, cleaned = loaded(path, dedupe=False), loaded(path, dedupe=True)
    assert list(dict.fromkeys(pairs(kept.train))) == pairs(cleaned.train)
    assert list(dict.fromkeys(pairs(kept.dev))) == pairs(cleaned.dev)
    assert len(cleaned.train) == 160
    assert len(cleaned.dev) == 40
    parts: Any = cleaned.statistics["parts"]
    total = Counter(parts["train"]["dropped"]) + Counter(parts["dev"]["dropped"])
    assert total == {"exact_duplicate_row": 50, "blank_or_null_question": 1, "blank_or_null_answer": 1}
    assert cleaned.statistics["rows_read"] == 252
    assert parts["dev"]["questions"] == 40
    assert parts["dev"]["rows_loaded"] + parts["train"]["rows_loaded"] == 252


def test_a_text_that_cannot_be_seen_is_blank(tmp_path: Path) -> None:
    unseen = [{"question": "\u200b", "answer": "x"}, {"question": "seen", "answer": "\ufeff \u00ad"}]
    split = loaded(write_jsonl(tmp_path / "a.jsonl", [*rows_of(150), *unseen]))
    parts: Any = split.statistics["parts"]
    total = Counter(parts["train"]["dropped"]) + Counter(parts["dev"]["dropped"])
    assert total == {"blank_or_null_question": 1, "blank_or_null_answer": 1}


def test_one_question_in_two_spellings_is_on_one_side(tmp_path: Path) -> None:
    spelt = [(f"où est le café {i}", f"Là {i}.") for i in range(120)]
    rows = [{"question": unicodedata.normalize(form, q), "answer": a} for q, a in spelt for form in ("NFC", "NFD")]
    split = loaded(write_jsonl(tmp_path / "a.jsonl", rows))
    train, dev = ({unicodedata.normalize("NFC", q) for q in part.questions} for part in (split.train, split.dev))
    assert len(train) + len(dev) == 120 and not train & dev


def test_rows_takes_the_first_and_limit_a_seeded_subset(jsonl: Path) -> None:
    first = loaded(jsonl, rows=120)
    assert sorted(first.train.lines + first.dev.lines) == list(range(1, 121))
    limited = loaded(jsonl, limit=110)
    chosen = sorted(limited.train.lines + limited.dev.lines)
    assert len(chosen) == 110
    assert chosen != list(range(1, 111))
    assert limited == loaded(jsonl, limit=110)
    other = loaded(jsonl, limit=110, split_seed=13)
    assert sorted(other.train.lines + other.dev.lines) != chosen


def labelled(path: Path, labels: list[object]) -> Path:
    rows = [{**row, "label": label} for row in rows_of(150) for label in labels]
    return write_jsonl(path / "a.jsonl", [{**row, "answer": f"{row['answer']} {n}"} for n, row in enumerate(rows)])


def test_labels_are_counted_and_a_scale_without_a_wrong_answer_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = labelled(tmp_path, [5, 1, 2])
    loaded(path, format=Format.labelled, positive_threshold=4)
    said = "labels 1: 150, 2: 150, 5: 150; positive from data.positive_threshold={} up: {} of 450"
    assert said.format(4, 150) in caplog.text and "No row counts as a wrong" not in caplog.text
    caplog.clear()
    loaded(path, format=Format.labelled)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "labels" in r.getMessage()] == [
        f"{said.format(1, 450)}. No row counts as a wrong answer: if the lowest labels mean one, "
        "raise data.positive_threshold"
    ]
    caplog.clear()
    loaded(labelled(tmp_path, [n / 10 for n in range(1, 10)]), format=Format.labelled, positive_threshold=0.5)
    assert "labels from 0.1 to 0.9, 9 different; positive from data.positive_threshold=0.5 up: 750 of" in caplog.text
    caplog.clear()
    loaded(labelled(tmp_path, [1]), format=Format.labelled)
    assert "No row counts as a wrong" not in caplog.text, "pairs that say so"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "remedy"),
    [
        ("Relevance", "data.format=labelled data.label_column=Relevance"),
        ("Label", "data.format=labelled data.label_column=Label"),
        ("Negatives", "data.format=negatives data.negatives_column=Negatives"),
        ("negative", "data.format=negatives data.negatives_column=negative"),
        ("url", None),
    ],
)
def test_a_column_that_may_tell_of_wrong_answers_is_warned_of_where_it_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, column: str, remedy: str | None
) -> None:
    rows = [{**row, column: "Irrelevant"} for row in rows_of(150)]
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    elif suffix == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    loaded(path)
    told = [record.getMessage() for record in caplog.records if "so every row counts" in record.getMessage()]
    said = f"{path}: ignored {column!r}, so every row counts as a right answer. If it marks wrong ones, pass "
    assert told == ([] if remedy is None else [said + remedy])


def test_limit_cuts_no_question(tmp_path: Path) -> None:
    rows = [row for row in rows_of(100) for _ in range(7)]
    questions = [row["question"] for row in rows]
    source = PairRows(questions, questions, list(range(700)))
    counts = Counter(questions[row] for row in subset(source, 100, 5))
    assert sorted(counts.values()) == [7] * 14
    one = PairRows(["many"] * 200 + questions[::7], questions[:300], list(range(300)))
    assert len(subset(one, 100, 5)) == 100 and "many" not in one.take(subset(one, 100, 5)).questions


@pytest.mark.parametrize(("wish", "size"), [(5, 20), (25, 25), (1000, 30)])
def test_dev_queries_is_a_wish_with_bounds(jsonl: Path, wish: int, size: int, caplog: pytest.LogCaptureFixture) -> None:
    split = loaded(jsonl, dev_queries=wish, validation_queries=wish)
    assert len(split.dev) == size
    assert split.validation is not None
    assert len(split.validation) == {5: 20, 25: 25, 1000: 24}[wish]
    width = {20: "0.27", 25: "0.24", 30: "0.22"}[size]
    assert (
        f"only {size} dev questions: a 95 % interval of an nDCG@10 difference will be about {width} wide" in caplog.text
    )


def test_no_warning_from_200_dev_questions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded(write_jsonl(tmp_path / "a.jsonl", rows_of(1000)), dev_queries=200)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# The user's own dev file and corpus


def test_own_dev_file_and_corpus(jsonl: Path) -> None:
    dev = write_jsonl(jsonl.parent / "dev.jsonl", [{"question": f"new {i}", "answer": f"New {i}."} for i in range(30)])
    corpus = write_jsonl(
        jsonl.parent / "corpus.jsonl",
        [{"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "text": "T x"}, {"_id": "d3", "text": "y"}],
    )
    split = loaded(jsonl, dev_path=str(dev), corpus_path=str(corpus), rows=120)
    assert (len(split.train), len(split.dev)) == (120, 30)
    assert (split.corpus, split.corpus_ids) == (["T x", "y"], ["d1", "d3"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"txt": "x"}, "key text must be present, got only the keys ['txt']. Write {\"text\": …} on each line."),
        ({"text": 5}, "key text must be text, got 5. Put it in quotes."),
        ({"text": "x", "title": 0}, "key title must be text, got 0. Put it in quotes."),
        ({"answer": ["x"]}, "key answer must be text, got ['x']. Put it in quotes."),
        ({"_id": None, "id": "d1", "text": "x"}, "have a unique id, got 'd1'. Rename it."),
    ],
)
def test_a_broken_line_of_an_own_corpus_is_refused(jsonl: Path, line: dict[str, object], said: str) -> None:
    corpus = write_jsonl(jsonl.parent / "corpus.jsonl", [{"_id": "d1", "answer": "y", "title": 7}, line])
    assert refusal(jsonl, corpus_path=str(corpus)).startswith(f"{corpus}, line 2")
    assert refusal(jsonl, corpus_path=str(corpus)).endswith(said)


def test_what_is_left_out_of_an_own_corpus_is_counted(jsonl: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["x", " \t", "y", "x", "", "x", "nul\0"]
    corpus = write_jsonl(jsonl.parent / "corpus.jsonl", [{"text": text} for text in [*texts, None]])
    with caplog.at_level(logging.INFO):
        split = loaded(jsonl, corpus_path=str(corpus))
    assert split.corpus == ["x", "y", "nul"]
    assert split.statistics["reading"] == {
        "corpus_passages_with_an_earlier_text": 2,
        "corpus_passages_without_text": 3,
        "texts_with_nul": 1,
    }
    assert f"{corpus}: 3 passages to search; left out: 3 without text, 2 that repeat an earlier one" in caplog.text


def test_a_listed_negative_is_a_passage_too_and_one_that_is_an_answer_itself_stays(tmp_path: Path) -> None:
    rows = [{**row, "negatives": ["Wrong."]} for row in rows_of(148)]
    rows += [{"question": q, "answer": a, "negatives": []} for q, a in (("who", "Body."), ("what", "Other Body."))]
    titled = [("First", "Body."), ("Other", "Body."), ("T", "Wrong.")]
    passages = [{"_id": title, "title": title, "text": text} for title, text in titled]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*passages, {"text": "more"}])
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    split = loaded(path, format=Format.negatives, corpus_path=str(corpus))
    assert split.corpus == ["First Body.", "Other Body.", "T Wrong.", "more"]
    assert split.corpus_ids is None, "one passage has none"
    given = {q: a for part in (split.train, split.dev) for q, a in pairs(part)}
    assert (given["who"], given["what"]) == ("First Body.", "Other Body.")
    listed = [text for part in (split.train, split.dev) for own in part.negatives or [] for text in own]
    assert listed == ["T Wrong."] * 148


def test_an_answer_is_the_passage_whose_text_it_is_under_whatever_title(
    jsonl: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [row["answer"] for row in rows_of(150)]
    passages = [{"title": f"Title {i}", "text": answer.upper()} for i, answer in enumerate(answers[:100])]
    passages += [
        {"title": "Later", "text": answers[0]},
        {"text": answers[1]},
        {"title": "Thing", "text": "140 is number 140."},
    ]
    corpus = write_jsonl(jsonl.parent / "corpus.jsonl", [*passages, {"text": "more"}])
    with caplog.at_level(logging.INFO):
        split = loaded(jsonl, corpus_path=str(corpus))
    assert f"data.corpus_path={corpus}: 101 of 150 answers are among its passages" in caplog.text
    assert split.statistics["corpus"] == {"answers": 150, "answers_in_corpus": 101}
    # "Later" would be a wrong answer to question 0, and "Title 1" to question 1.
    reading = split.statistics["reading"]
    assert isinstance(reading, dict) and reading["corpus_passages_with_an_answers_text_under_another_title"] == 2
    assert len(split.corpus) == 102 and not any(text.startswith(("Later", "Title 1 ")) for text in split.corpus)
    given = {q: a for part in (split.train, split.dev) for q, a in pairs(part)}
    assert given["what is thing 0"] == "Title 0 THING 0 IS NUMBER 0."  # the first of its text
    assert given["what is thing 1"] == answers[1]  # as it stands, rather than under a title
    assert given["what is thing 140"] == "Thing 140 is number 140." and given["what is thing 149"] == answers[149]
    settings = MiningConfig(retriever=Retriever.bm25, negatives=20, random_negatives=20, dev_depth=20)
    mined = mine(split, settings, jsonl.parent / "unused")
    assert not any(
        fold(mined.train.passages[p]).endswith(fold(mined.train.questions[q].removeprefix("what is ")) + ".")
        for q, p, label in zip(mined.train.question, mined.train.passage, mined.train.label, strict=True)
        if not label
    )
    for query, text in mined.dev.queries.items():
        number = text.removeprefix("what is thing ")
        positives = {p for p, grade in mined.dev.qrels[query].items() if grade}
        like = {p for p, passage in mined.dev.passages.items() if fold(passage).endswith(f"is number {number}.")}
        assert positives == like


def test_a_corpus_with_none_of_the_answers_is_warned_of(jsonl: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = write_jsonl(jsonl.parent / "corpus.jsonl", [{"text": f"else {i}"} for i in range(20)])
    loaded(jsonl, corpus_path=str(corpus))
    assert f"data.corpus_path={corpus}: none of 150 answers is among its passages, with the title or" in caplog.text


def test_validation_holds_no_question_of_the_dev_file(jsonl: Path) -> None:
    shared = [{"question": row["question"].upper(), "answer": row["answer"]} for row in rows_of(60)]
    new = [{"question": f"new {i}", "answer": f"New {i}."} for i in range(30)]
    dev = write_jsonl(jsonl.parent / "dev.jsonl", shared + new)
    split = loaded(jsonl, dev_path=str(dev), validation_queries=20)
    assert split.validation is not None and len(split.validation) == 20
    asked = {fold(question) for question in split.dev.questions}
    assert not asked & {fold(question) for question in split.validation.questions}
    assert asked & {fold(question) for question in split.train.questions}  # mining drops or counts these


def test_a_dev_file_that_is_trained_on_is_refused(jsonl: Path) -> None:
    part = [{**row, "question": row["question"].upper()} for row in rows_of(40)]
    same = write_jsonl(jsonl.parent / "dev.jsonl", part)
    assert refusal(jsonl, dev_path=str(same)) == (
        f"data.dev_path={same} must hold pairs that are not in the training data, got 40 rows that are all in {jsonl}. "
        "Give other questions, or remove the key to split some off the training rows."
    )
    assert refusal(jsonl, dev_path=str(jsonl)).startswith(f"data.dev_path={jsonl} must hold pairs")
    other = [{**row, "answer": f"{row['answer']} More."} for row in rows_of(150)]
    asked = write_jsonl(jsonl.parent / "asked.jsonl", other)
    assert refusal(jsonl, dev_path=str(asked), validation_queries=20) == (
        f"data.dev_path={asked} must leave questions to train on, got all 150 of them in it. "
        "Give it other questions, or remove the key to split some off the training rows."
    )
    tiny = write_jsonl(jsonl.parent / "tiny.jsonl", [{"question": "new", "answer": "New."}])
    assert refusal(jsonl, dev_path=str(tiny)).startswith(
        f"data.dev_path={tiny} must hold at least 20 usable questions, got 1."
    )


def test_beir_folder(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(110)])
    write_jsonl(
        tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "title": "T", "text": f"text {i // 2}"} for i in range(240)]
    )
    judged = [f"q{i}\td{2 * i}\t2\nq{i}\td{2 * i + 2}\t1\n" for i in range(110)]
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    split = loaded(tmp_path, format=Format.beir, positive_threshold=2)
    assert (len(split.train), len(split.dev)) == (88, 22)
    number = int((split.dev.question_ids or [])[0][1:])
    assert pairs(split.dev)[0] == (f"query {number}", f"T text {number}")
    assert len(split.corpus) == 120
    assert split.corpus_ids == [f"d{i}" for i in range(0, 240, 2)]
    assert len(loaded(tmp_path, format=Format.beir).train) == 2 * 88
    cut = loaded(tmp_path, format=Format.beir, rows=213)  # the last question's second row would be left behind
    assert len(cut.train) + len(cut.dev) == 212


@pytest.mark.parametrize(
    ("train", "dev", "expected"),
    [
        ({"a": "one", "a@1": "two"}, {"a": "three"}, {"one": "a", "two": "a@1", "three": "a@1@1"}),
        # The dev folder itself has an id that a passage of it was given.
        ({"a": "one"}, {"a": "three", "a@1": "four"}, {"one": "a", "three": "a@1", "four": "a@1@1"}),
        # An id that stands for another text of the training folder, under which that is not searched.
        ({"a": "one", "b": "one"}, {"b": "two"}, {"one": "a", "two": "b@1"}),
    ],
)
def test_a_dev_folders_passage_gets_an_id_that_no_other_has(
    tmp_path: Path, train: dict[str, str], dev: dict[str, str], expected: dict[str, str]
) -> None:
    for name, passages in (("train", train), ("dev", dev)):
        folder = tmp_path / name
        (folder / "qrels").mkdir(parents=True)
        write_jsonl(folder / "queries.jsonl", [{"_id": f"{name}{i}", "text": f"{name} {i}"} for i in range(110)])
        texts = {**passages, **{f"{name}{i}": f"text {name} {i}" for i in range(110)}}
        write_jsonl(folder / "corpus.jsonl", [{"_id": i, "text": text} for i, text in texts.items()])
        (folder / "qrels" / "test.tsv").write_text("".join(f"{name}{i}\t{name}{i}\t1\n" for i in range(110)))
    split = loaded(tmp_path / "train", format=Format.beir, dev_path=str(tmp_path / "dev"))
    ids = dict(zip(split.corpus, split.corpus_ids or [], strict=True))
    assert {text: ids[text] for text in expected} == expected
    assert split.renamed == [next(iter(dev))]


def test_a_beir_folder_is_trained_on_its_train_judgements_and_its_test_ones_are_a_dev_file(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(150)])
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "text": f"text {i}"} for i in range(150)])
    for name, numbers in (("test", range(120, 150)), ("train", range(120))):
        judged = "".join(f"q{i}\td{i}\t{1 + (i % 3 == 0)}\n" for i in numbers)
        (tmp_path / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    assert {int(q.split()[1]) for q in loaded(tmp_path, format=Format.beir).train.questions} < set(range(120))
    section = {"format": Format.beir, "dev_path": str(tmp_path)}
    (tmp_path / "run.trec").write_text("broken")  # read of a collection that is evaluated only
    split = loaded(tmp_path, **section)
    assert split.dev.questions == [f"query {i}" for i in range(120, 150)] and len(split.train) == 120
    assert split.dev.labels == [1.0 + (i % 3 == 0) for i in range(120, 150)]  # grades are kept


def beir_folder(folder: Path, queries: int, passages: dict[str, str]) -> Path:
    """A collection whose first queries are answered by its first passages."""
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(
        folder / "queries.jsonl", [{"_id": f"{folder.name}{i}", "text": f"{folder.name} {i}"} for i in range(queries)]
    )
    write_jsonl(folder / "corpus.jsonl", [{"_id": name, "text": text} for name, text in passages.items()])
    judged = "".join(f"{folder.name}{i}\t{name}\t1\n" for i, name in zip(range(queries), passages, strict=False))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def test_an_id_of_two_collections_is_one_passage_or_known_to_be_two(tmp_path: Path) -> None:
    train = beir_folder(tmp_path / "a", 120, {f"t{i}": f"text {i}" for i in range(120)} | {"t120": "text 5"})
    fresh = {f"d{i}": f"other {i}" for i in range(30)}
    keys = {"format": Format.beir}

    def read(name: str, passages: dict[str, str]) -> Split:
        return loaded(train, **keys, dev_path=str(beir_folder(tmp_path / name, 30, fresh | passages)))

    shared = read("b", {"t7": "text 7", "x": "text 8", "y": "text 8", "z": "other 1"})
    assert shared.corpus == [f"text {i}" for i in range(120)] + [f"other {i}" for i in range(30)]
    assert shared.corpus_ids == [f"t{i}" for i in range(120)] + [f"d{i}" for i in range(30)]
    assert shared.aliases == {"t120": "t5", "x": "t8", "y": "t8", "z": "d1"} and shared.renamed == []
    # A text that is new, one that the source has under another id, and one that the dev collection has twice.
    two = read("c", {"t1": "new", "t2": "text 3", "t4": "other 0", "t120": "text 5"})
    assert two.renamed == ["t1", "t2", "t4"]
    assert dict(zip(two.corpus_ids or [], two.corpus, strict=True))["t1@1"] == "new" and two.corpus[1] == "text 1"
    # Neither collection is searched beside a corpus of the user's own, and neither's ids are known.
    own = write_jsonl(tmp_path / "own.jsonl", [{"_id": f"t{i}", "text": f"own {i}"} for i in range(9)])
    assert loaded(train, **keys, corpus_path=str(own)).aliases == {}


# The split's promises

QUESTIONS = st.lists(st.sampled_from(["a", "A ", " a  b", "a b", "c", "C", "d", "e f", "E  F", "g"]), max_size=40)


@settings(max_examples=200, deadline=None)
@given(QUESTIONS, st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_no_folded_question_on_both_sides(questions: list[str], count: int, seed: int, grouped: bool) -> None:
    groups = [str(len(question) + row // 5) for row, question in enumerate(questions)] if grouped else None
    rows = PairRows(questions, questions, list(range(len(questions))), groups=groups)
    usable = dict.fromkeys(fold(question) for question in questions if "d" not in question)
    split = hold_out(rows, count, usable=usable, seed=seed)
    held = {fold(questions[row]) for row in split.held}
    assert held.isdisjoint({fold(questions[row]) for row in split.rest})
    assert len(held) == min(count, len(usable))
    assert held <= set(usable)
    assert sorted([*split.held, *split.rest, *split.surplus]) == list(range(len(questions)))
    if groups is not None:
        taught = {groups[row] for row in split.rest}
        assert taught.isdisjoint({groups[row] for row in split.surplus})
        # A question is held out for a row in a group that is, and the rows it has elsewhere judge it too.
        assert held == {fold(questions[row]) for row in split.held if groups[row] not in taught}
        first = {fold(questions[row]): groups[row] for row in reversed(split.held)}
        assert taught.isdisjoint(first.values()), "its group is the one held out"
    else:
        assert not split.surplus
    assert split == hold_out(rows, count, usable=usable, seed=seed)


def test_the_split_of_a_seed_never_moves(jsonl: Path) -> None:
    assert loaded(jsonl).dev.lines[:8] == [5, 7, 12, 24, 35, 39, 41, 42]


def test_groups_stay_whole(tmp_path: Path) -> None:
    rows = [{**row, "title": f"t{i // 13}"} for i, row in enumerate(rows_of(400))]
    split = loaded(write_jsonl(tmp_path / "a.jsonl", rows), group_column="title", dev_queries=50, validation_queries=30)
    assert split.validation is not None
    assert (len(split.dev), len(split.validation)) == (50, 30)
    sides = [set(part.groups or []) for part in (split.train, split.validation, split.dev)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    surplus = len(rows) - len(split.train) - 80
    parts: Any = split.statistics["parts"]
    assert parts["train"]["dropped"] == {"surplus_of_a_held_out_group": surplus}
    assert 0 < surplus < 26
    assert [parts[name]["groups"] for name in ("train", "validation", "dev")] == list(map(len, sides))


def test_no_group_gives_more_held_out_questions_than_it_may(tmp_path: Path) -> None:
    rows = [{**row, "title": f"t{min(i // 5, 40)}"} for i, row in enumerate(rows_of(400))]  # 40 of 5, one of 200
    wanted = {"dev_queries": 60, "validation_queries": 20, "queries_per_group": 3, "group_column": "title"}
    split = loaded(write_jsonl(tmp_path / "a.jsonl", rows), **wanted)
    assert split.validation is not None and (len(split.dev), len(split.validation)) == (60, 20)
    for part, groups in ((split.dev, 20), (split.validation, 7)):
        assert part.groups is not None and max(Counter(part.groups).values()) == 3
        assert len(set(part.groups)) == groups
    # What a held-out group does not give is searched like any passage, and belongs to no part.
    answers = {answer for part in (split.train, split.validation, split.dev) for answer in part.answers}
    assert split.unused is not None
    assert len(split.unused) == len(rows) - len(split.train) - 80 > 0
    assert not answers & set(split.unused.answers) and set(split.corpus) == answers | set(split.unused.answers)


def test_what_a_group_gives_is_drawn_and_new() -> None:
    names = [f"g{row // 5}" for row in range(200)]
    rows = PairRows([f"q{row}" for row in range(200)], ["a"] * 200, list(range(200)), groups=names)
    usable = dict.fromkeys(rows.questions)
    held = hold_out(rows, 40, usable=usable, seed=12, per_group=2).held
    assert {row % 5 for row in held} == set(range(5)), "not the first rows of each group"
    # A question that an earlier group gave is not given again.
    shared = PairRows(["a", "b", "a", "b", "c"], ["x"] * 5, list(range(5)), groups=["one"] * 2 + ["two"] * 3)
    for seed in range(8):
        assert len({shared.questions[row] for row in hold_out(shared, 3, usable={"a", "b", "c"}, seed=seed).held}) == 3


def test_a_held_out_question_takes_its_rows_of_other_groups_along(tmp_path: Path) -> None:
    """Half the topics have answers in two documents: what judges a dev question is not taught, nor lost."""
    rows = [{"question": f"about topic {i}", "answer": f"one answer {i}", "doc": f"d{i // 4}"} for i in range(400)]
    rows += [{"question": f"about topic {i}", "answer": f"other answer {i}", "doc": f"e{i}"} for i in range(0, 400, 2)]
    rows += [{"question": f"more of {i}", "answer": f"other answer {i}", "doc": f"e{i}"} for i in range(0, 400, 2)]
    split = loaded(
        write_jsonl(tmp_path / "a.jsonl", rows), group_column="doc", dev_queries=60, validation_queries=20,
    )  # fmt: skip
    assert split.validation is not None and split.unused is not None
    known = {}
    for row in rows:
        known.setdefault(row["question"], set()).add(row["answer"])
    for part in (split.dev, split.validation):
        judged = {}
        for question, answer in pairs(part):
            judged.setdefault(question, set()).add(answer)
        assert judged == {question: known[question] for question in judged}
    both = set(split.train.questions) & set(split.unused.questions)
    assert both, "questions with rows in a group that is held out, and others that are taught"
    mined = mine(
        split, MiningConfig(retriever=Retriever.bm25, negatives=3, random_negatives=20, range_max=50), tmp_path
    )
    train = mined.train
    for question, passage, label in zip(train.question, train.passage, train.label, strict=True):
        assert label == 1 or train.passages[passage] not in known[train.questions[question]]


@pytest.mark.parametrize(("last", "warned"), [(400, True), (10, False)])
def test_a_group_that_is_held_out_and_hardly_used_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, last: int, warned: bool
) -> None:
    rows = [{**row, "title": f"t{i // 5}" if i >= last else "large"} for i, row in enumerate(rows_of(800))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    for seed in range(12):  # some draw the large group
        loaded(path, group_column="title", dev_queries=40, split_seed=seed)
    assert ("are used in neither training nor evaluation. Lower data.dev_queries" in caplog.text) == warned


def test_one_group_cannot_be_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{**row, "title": "t"} for row in rows_of(200)])
    assert refusal(path, group_column="title") == (
        f"the train part of {path} must hold usable rows, got none. "
        "Lower data.dev_queries and data.validation_queries, or use more or smaller groups."
    )


def test_one_answer_to_all_questions_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{**row, "answer": "See the  FAQ."} for row in rows_of(200)])
    assert refusal(path) == (
        f"{path} must hold answers that differ, got the same one in all 160 training rows, 'see the faq.'. "
        "Name the column of the passages: data.answer_column=<column>."
    )


def test_one_answer_beside_wrong_ones_is_trained_on(tmp_path: Path) -> None:
    rows = [{**row, "answer": "See the FAQ."} for row in rows_of(200)]
    listed = write_jsonl(tmp_path / "a.jsonl", [{**row, "negatives": [f"Thing {i}."]} for i, row in enumerate(rows)])
    assert len(loaded(listed, format=Format.negatives).train) == 160
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": f"Thing {i}."} for i in range(9)])
    alone = write_jsonl(tmp_path / "b.jsonl", rows)
    assert len(loaded(alone, corpus_path=str(corpus)).train) == 160


def test_a_draw_of_rows_becomes_one_of_whole_usable_questions() -> None:
    rows = PairRows(["a", "b", "A ", "c", "d"], ["1", "2", "3", "4", " "], [1, 2, 3, 4, 5])
    whole = whole_questions(Held(held=[4, 2], rest=[3, 1, 0]), rows, {"a": None, "b": None, "c": None})
    assert (whole.held, whole.rest) == ([2, 0], [3, 1, 4])


# The hub


def test_a_full_disk_is_no_fault_of_the_data(hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def full(*_: Any, **__: Any) -> None:  # as it wraps whatever the conversion meets
        raise datasets.exceptions.DatasetGenerationError("generating") from OSError(28, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        load(config("some/set", source=Source.hub, subset="pair"), source=hub_folder, cache=tmp_path / "cache")


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshot"
    (folder / "pair").mkdir(parents=True)
    rows = rows_of(400)
    random.Random(0).shuffle(rows)
    rows[7]["question"] = rows[3]["question"]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pair" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: pair\n  data_files:\n  - split: train\n    path: pair/train-*\n---\n"
    )
    return folder


def test_hub_rows_are_split_as_datasets_does(hub_folder: Path, tmp_path: Path) -> None:
    import datasets

    section = config("some/set", source=Source.hub, subset="pair", rows=300, dev_queries=50, dedupe=False)
    split = load(section, source=hub_folder, cache=tmp_path / "cache")
    whole = datasets.load_dataset("parquet", data_files=str(hub_folder / "pair" / "*"), cache_dir=str(tmp_path / "c"))
    expected = whole["train"].select(range(300)).train_test_split(test_size=50, seed=12)
    assert (split.train.questions, split.train.answers) == (
        list(expected["train"]["question"]),
        list(expected["train"]["answer"]),
    )
    assert (split.dev.questions, split.dev.answers) == (
        list(expected["test"]["question"]),
        list(expected["test"]["answer"]),
    )


def test_a_hub_data_set_with_labels_says_how_to_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([{**row, "label": 0} for row in rows_of(4)]), folder / "train.parquet")
    section = config("some/set", source=Source.hub)
    with pytest.raises(DataError, match=r"^data\.format must read the column 'label' of some/set \(.*\), got 'p"):
        load(section, source=folder, cache=tmp_path / "cache")


def test_every_hub_row_of_a_held_out_question_judges_it(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    rows = [{"question": f"question {i // 2}", "answer": f"Answer {i}."} for i in range(400)]
    rows[0]["answer"] = " "
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    section = config("some/set", source=Source.hub, rows=None, dev_queries=40, validation_queries=20)
    split = load(section, source=folder, cache=tmp_path / "cache")
    assert split.validation is not None
    parts = [set(part.questions) for part in (split.train, split.dev, split.validation)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 200
    assert 20 < len(parts[1]) <= 40 and 10 < len(parts[2]) <= 20
    assert sorted(pairs(split.train) + pairs(split.dev) + pairs(split.validation)) == sorted(
        (row["question"], row["answer"]) for row in rows[1:]
    )


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"split": "test"}, "some/set ({folder}) must be a data set with the split 'test', got "),
        (
            {"answer_column": "reply"},
            "some/set ({folder}) must have the column 'reply', got the columns 'question', 'answer'.",
        ),
    ],
)
def test_a_hub_data_set_without_split_or_column(hub_folder: Path, tmp_path: Path, keys: Row, sentence: str) -> None:
    section = config("some/set", source=Source.hub, subset="pair", **keys)
    with pytest.raises(DataError) as error:
        load(section, source=hub_folder, cache=tmp_path / "cache")
    assert str(error.value).startswith(sentence.format(folder=hub_folder))
    assert "\n" not in str(error.value)


# Docstrings


def test_packaged_docs_are_split_by_module(tmp_path: Path) -> None:
    section = DataConfig(
        source=Source.packaged_docs,
        name="docs",
        packages=["networkx"],
        dev_queries=60,
        validation_queries=20,
        limit=600,
    )
    split = load(section, source=None, cache=tmp_path)
    assert split.validation is not None
    assert (len(split.dev), len(split.validation)) == (60, 20)
    assert not set(split.train.groups or []) & (set(split.dev.groups or []) | set(split.validation.groups or []))
    (digest,) = content_digest(section, source=None, cache=tmp_path).values()
    assert len(digest) == 64
    reading: Any = split.statistics["reading"]
    assert reading["docstrings"] > 1000


# The shared data


@pytest.mark.parametrize(
    ("name", "rows", "keys"),
    [("qed-nq-train", 7167, {}), ("squad-du-test", 11877, {"group_column": "title"}), ("medquad", 16407, {})],
)
def test_shared_pairs(name: str, rows: int, keys: Row, tmp_path: Path) -> None:
    path = SHARED / "pairs" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip("the shared data does not lie beside this checkout")
    split = load(config(path, **keys), source=None, cache=tmp_path)
    assert split.statistics["rows_read"] == rows
    assert len({fold(question) for question in split.dev.questions}) == 1000
    held = {fold(question) for question in split.dev.questions}
    assert held.isdisjoint(fold(question) for question in split.train.questions)


def test_raw_gooaq_rows(tmp_path: Path) -> None:
    path = SHARED / "fixtures" / "gooaq-real-rows.jsonl"
    if not path.exists():
        pytest.skip("the shared data does not lie beside this checkout")
    copies = [json.loads(line) for line in path.read_text().splitlines() if line]
    rows = [{**row, "question": f"{row['question']} {i}"} for i in range(60) for row in copies]
    split = loaded(write_jsonl(tmp_path / "a.jsonl", rows))
    parts: Any = split.statistics["parts"]
    nulls = sum(row["answer"] is None for row in rows)
    assert nulls > 0
    assert sum(part["dropped"].get("blank_or_null_answer", 0) for part in parts.values()) == nulls
    assert any(answer.startswith("['University of Birmingham.'") for answer in split.train.answers)
