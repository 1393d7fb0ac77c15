"""What a trial with own data found: unread columns, ids for answers, wide intervals, swallowed rows, splits."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback_hub import LoopbackHub

from pipeline.config.data import DataConfig, Format, MiningConfig, Retriever, Source
from pipeline.core.errors import DataError
from pipeline.core.records import Split
from pipeline.data.source import load
from pipeline.mining.miner import mine

Row = dict[str, Any]


def rows_of(number: int) -> list[Row]:
    return [{"question": f"what is thing {i}", "answer": f"Thing {i} is number {i}."} for i in range(number)]


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(path: Path, **keys: Any) -> Split:
    given = {"source": Source.local, "name": "x", "path": str(path), **keys}
    return load(DataConfig(**given), source=None, cache=path.parent / "cache")


def refusal(path: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as error:
        loaded(path, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def said_in_mining(split: Split, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what `mining.checks` logs while a split is mined with BM25."""
    caplog.set_level(logging.INFO)
    mine(split, MiningConfig(retriever=Retriever.bm25, negatives=1, random_negatives=1), Path("unused"))
    return [record.getMessage() for record in caplog.records if record.name == "pipeline.mining.checks"]


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


# --- checks ---


def test_the_width_of_an_interval_is_forecast_from_the_groups_it_resamples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "document": f"d{i // 40}"} for i, row in enumerate(rows_of(2000))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    loaded(path, group_column="document", dev_queries=400)
    said = "a 95 % interval of an nDCG@10 difference will be about 0.38 wide"
    assert warnings(caplog)[0] == f"only 10 groups of dev questions: {said}"
    caplog.clear()
    loaded(path, dev_queries=400)
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({}, "Give more rows, or check data.question_column and data.answer_column."),
        (
            {"format": Format.labelled, "limit": 70},
            "Give more rows, raise data.limit, or check data.question_column, data.answer_column and "
            "data.positive_threshold.",
        ),
    ],
)
def test_too_few_questions_name_only_keys_that_are_set_or_read(
    tmp_path: Path, keys: dict[str, Any], remedy: str
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{**row, "label": 1} for row in rows_of(60)])
    keys = keys or {"label_column": "unused"}
    assert refusal(path, **keys) == f"{path} must hold at least 100 usable questions, got 60. {remedy}"


def test_too_few_queries_of_a_beir_folder_name_no_columns(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": f"what is {i}"} for i in range(30)])
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "text": f"it is {i}"} for i in range(30)])
    (tmp_path / "qrels" / "train.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(30)))
    said = refusal(tmp_path, format=Format.beir, rows=20)
    assert said.endswith("got 20. Give more rows, raise data.rows, or check data.positive_threshold.")


# --- mining checks ---


def test_pairs_with_two_labels_are_said_for_every_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**row, "label": label} for row in rows_of(200) for label in (1, 0)]
    rows += [{**row, "answer": f"Wrong {i}.", "label": 0} for i, row in enumerate(rows_of(200))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    said = said_in_mining(loaded(path, format=Format.labelled, dev_queries=30, validation_queries=20), caplog)
    told = [text for text in said if "two labels" in text]
    assert told == [
        f"{part} pairs have two labels: the higher one is used" for part in ("train: 150", "dev: 30", "validation: 20")
    ]


@pytest.mark.parametrize("column", [None, "user"])
@pytest.mark.parametrize("is_shared", [True, False])
def test_groups_are_advised_against_leaks_only_where_they_can_help(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str | None, is_shared: bool
) -> None:
    """A third of the questions have the same answer, or every answer has two questions; neither is within a group."""
    texts = ["Please restart." if i % 3 == 0 else f"Answer {i}." for i in range(300)]
    if not is_shared:
        texts = [f"Answer {i % 150}." for i in range(300)]
    rows = [{"question": f"what is {i}", "answer": text, "user": f"u{i}"} for i, text in enumerate(texts)]
    split = loaded(write_jsonl(tmp_path / "a.jsonl", rows), group_column=column, dev_queries=60)
    (told,) = [text for text in said_in_mining(split, caplog) if "with a held-out part" in text]
    assert ("data.group_column=<column>" in told) == (column is None and not is_shared)
    assert ("fewer data.dev_queries" in told) == (not is_shared)
    assert ("have the answer 'Please restart.': leave them out if it is a placeholder" in told) == is_shared


# --- tables ---


@pytest.mark.parametrize(("suffix", "mark", "kind"), [("tsv", "\t", "TSV"), ("csv", ",", "CSV")])
def test_a_broken_file_is_called_by_its_own_kind(tmp_path: Path, suffix: str, mark: str, kind: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(f'question{mark}answer\na{mark}b\n"c{mark}d\ne{mark}f\n')
    assert refusal(path) == (
        f"{path}, line 3 must be valid {kind}, got unexpected end of data, 1 line further on. "
        f"Repair its quotes, or save the file again as {kind}."
    )
    path.write_text(f"question{mark}answer\na{mark}b{mark}c\n")
    assert refusal(path).endswith(f"Quote a field that holds the separator, or save the file again as {kind}.")


def test_rows_that_a_stray_quote_joins_are_counted_and_prose_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"what is thing {i}\tThing {i}, so to say, is {i}." for i in range(400)]
    for i in range(3, 396, 9):  # these open a field, and the 12" three rows below closes it
        lines[i] = lines[i].replace("\t", '\t"Hello ')
        lines[i + 3] += ' and 12"'
    path = tmp_path / "a.tsv"
    path.write_text("question\tanswer\n" + "".join(f"{line}\n" for line in lines))
    split = loaded(path)
    assert split.statistics["rows_read"] == 400 - 44 * 3
    told = [text for text in warnings(caplog) if "look like rows" in text]
    assert len(told) == 1 and told[0].startswith(
        f"{path}: 44 quoted fields hold 132 lines that look like rows, the first from line 5 on; they are read as text."
    )
    caplog.clear()
    paragraphs = ["It is, as said.\n\nMore of it, then, follows:\n- one, or\n- two", "First.\nSecond, the last.", "x"]
    prose = tmp_path / "prose.csv"
    with prose.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["question", "answer"], *([f"what is {i}", paragraphs[i % 3]] for i in range(300))])
    loaded(prose)
    assert not [text for text in warnings(caplog) if "look like rows" in text]


# --- row_builder ---


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "values", "is_told"),
    [
        ("clicked", [1, 0, 0], True),
        ("Clicks", [12, 0, 3], True),
        ("score", [0.25, 0.5, 0.75], True),
        ("target", ["good", "bad"], True),
        ("flag", [True, False], True),
        ("flag", [1, 0, 0, None], True),
        ("how_good", [3, 2, 0], True),
        ("flag", [1.0, 0.0, None], True),
        ("clicked", [1], False),  # only the right answers were written
        ("target", [f"text {i}" for i in range(150)], False),
        ("id", list(range(150)), False),
        ("product", [0, 7, 12], False),
        ("words", [1, 2, 3], False),
        ("year", [1999, 2000], False),
        ("language", ["en", "de"], False),
        ("empty", [None], False),
    ],
)
def test_unread_columns_that_may_be_judgements_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, column: str, values: list[Any], is_told: bool
) -> None:
    rows = [{**row, column: values[i % len(values)]} for i, row in enumerate(rows_of(150))]
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        # Not every row has the key: the first one neither.
        write_jsonl(
            path, [{k: v for k, v in row.items() if v is not None and (i or k != column)} for i, row in enumerate(rows)]
        )
    elif suffix == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    loaded(path)
    said = f"{path}: ignored {column!r}, so every row counts as a right answer. If it marks wrong ones, pass "
    told = [text for text in warnings(caplog) if "ignored" in text]
    assert told == ([f"{said}data.format=labelled data.label_column={column}"] if is_told else [])


def test_of_several_unread_columns_a_usual_name_comes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"has_code": i % 2, **row, "rank": [i], "clicked": i % 3 > 0} for i, row in enumerate(rows_of(150))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    loaded(path)
    (told,) = [text for text in warnings(caplog) if "ignored" in text]
    assert "ignored 'clicked', 'has_code', so" in told and told.endswith("data.label_column=clicked")
    caplog.clear()
    loaded(path, format=Format.labelled, label_column="clicked")
    assert not [text for text in warnings(caplog) if "ignored" in text]


def test_unread_columns_of_a_hub_data_set_are_looked_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**row, "flag": i % 2 == 0, "year": 2000 + i % 5, "tag": "a"} for i, row in enumerate(rows_of(150))]
    folder = tmp_path / "hub"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    given = DataConfig(source=Source.hub, name="x", path="owner/name", revision="main")
    load(given, source=folder, cache=tmp_path / "cache")
    (told,) = [text for text in warnings(caplog) if "ignored" in text]
    assert "ignored 'flag', so" in told and told.endswith("data.format=labelled data.label_column=flag")


# --- own_corpus ---


def test_answers_that_are_ids_of_the_corpus_are_read_as_its_passages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    passages = [{"id": f"d{i}", "title": f"T{i}", "text": f"It is {i}."} for i in range(200)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", passages)
    log = [{"query": f"what is {i}", "doc": f"d{(i + k) % 150}", "clicked": 1 - k} for i in range(150) for k in (0, 1)]
    keys: dict[str, Any] = {"question_column": "query", "answer_column": "doc", "corpus_path": str(corpus)}
    keys |= {"format": Format.labelled, "label_column": "clicked"}
    split = loaded(write_jsonl(tmp_path / "clicks.jsonl", log), **keys)
    assert f"data.corpus_path={corpus}: all 150 answers are ids of its passages" in caplog.text
    assert split.statistics["corpus"] == {"answers": 150, "answers_in_corpus": 150}
    for part in (split.train, split.dev):
        for question, answer, label in zip(part.questions, part.answers, part.labels or [], strict=True):
            number = (int(question.split()[-1]) + (label == 0)) % 150
            assert answer == f"T{number} It is {number}."
    assert split.corpus == [f"T{i} It is {i}." for i in range(200)]


def test_answers_that_are_mostly_ids_are_refused_and_a_few_are_texts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": f"what is {i}", "answer": f"d{i}"} for i in range(150)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"_id": f"d{i}", "text": f"It is {i}."} for i in range(100)])
    assert refusal(path, corpus_path=str(corpus)) == (
        f"{corpus} must hold a passage for each of 150 answers, got 100 that are ids, but 50 that are not, such as "
        "'d100'. Add the passages of these ids, leave their rows out, or write the texts in place of the ids."
    )
    few = write_jsonl(tmp_path / "few.jsonl", [{"_id": f"d{i}", "text": f"It is {i}."} for i in range(75)])
    loaded(path, corpus_path=str(few))
    assert "none of 150 answers is among its passages" in caplog.text
    # One answer that is a text: the others may look like ids, but are not.
    mixed = write_jsonl(tmp_path / "m.jsonl", [*rows[:-1], {"question": "what is last", "answer": "it is 5."}])
    split = loaded(mixed, corpus_path=str(corpus))
    assert split.statistics["corpus"] == {"answers": 150, "answers_in_corpus": 1}


# --- failures ---

ASK = """
import sys
from pathlib import Path
import pipeline.hub.download
from pipeline.core.errors import HubError
from pipeline.hub.location import locate
pipeline.hub.download.WAITS_S = ()
try:
    locate(sys.argv[1], None, kind="model", lock=Path(sys.argv[2]), key="model.path")
except HubError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["no such repository", "no connection", "offline"])
def test_a_name_without_an_owner_that_no_hub_has_is_said_to_be_no_folder_here_either(tmp_path: Path, how: str) -> None:
    def told(name: str) -> str:
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": ""}
        environment |= {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        environment |= {"HF_HUB_OFFLINE": "1"} if how == "offline" else {}
        command = [sys.executable, "-c", ASK, name, str(tmp_path / "lock.json")]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    hub = LoopbackHub()
    with hub.serving():
        if how == "no such repository":
            bare, owned = told("modle"), told("acme/modle")
    if how != "no such repository":  # the server is gone
        bare, owned = told("modle"), told("acme/modle")
    got = {"no such repository": "or a private one (HTTP 401)", "offline": "modle, not cached"}.get(how, how)
    assert f"{got}, and no folder of that name here. " in bare and bare.count("\n") == 1
    assert f"{got}. " in owned and "no folder" not in owned
