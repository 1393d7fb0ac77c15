"""TREC and BEIR files: exact text in and out, odd ids, and one clear sentence for each thing wrong."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DataError
from pipeline.data.trec import escape, read_beir, read_qrels, read_run, unescape, write_qrels, write_run

COLLECTIONS = Path(__file__).resolve().parents[2] / "shared" / "data" / "collections"

IDS = st.text(st.characters(), max_size=8) | st.sampled_from(["../../x", "a b", "%", "%20", "50%", "\ud800", "\0", ""])


@pytest.mark.parametrize(
    ("identifier", "column"),
    [
        ("MED-10", "MED-10"),
        ("../../x", "../../x"),
        ("50%", "50%"),
        ("a b", "a%20b"),
        ("tab\there", "tab%09here"),
        ("line\nbreak", "line%0Abreak"),
        ("a%20b", "a%2520b"),
        ("é", "é"),
        ("no\u00a0break", "no%C2%A0break"),
        ("", "%"),
        ("%", "%25"),
    ],
)
def test_an_id_is_escaped_only_where_a_column_cannot_hold_it(identifier: str, column: str) -> None:
    assert escape(identifier) == column
    assert unescape(column) == identifier


@given(st.lists(IDS, max_size=5, unique=True))
def test_any_id_is_one_column_and_distinct_ids_stay_distinct(ids: list[str]) -> None:
    columns = [escape(identifier) for identifier in ids]
    assert all(len(column.split()) == 1 for column in columns)
    assert len(set(columns)) == len(ids)
    assert [unescape(column) for column in columns] == ids


@settings(max_examples=50)
@given(st.dictionaries(IDS, st.lists(IDS, min_size=1, max_size=4, unique=True), min_size=1, max_size=4))
def test_runs_and_judgements_survive_a_round_trip(rankings: dict[str, list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder) / "run.trec", rankings, "a tag")
        read = read_run(Path(folder) / "run.trec")
        assert {query: list(scores) for query, scores in read.items()} == rankings
        assert list(read) == list(rankings)
        qrels = {query: dict.fromkeys(ids, 2) for query, ids in rankings.items()}
        write_qrels(Path(folder) / "qrels.trec", qrels)
        assert read_qrels(Path(folder) / "qrels.trec") == qrels


def test_a_run_is_written_in_rank_order_with_strictly_decreasing_scores(tmp_path: Path) -> None:
    write_run(tmp_path / "run.trec", {"q2": ["b", "a"], "q1": ["x y"], "none": []}, "trained")
    text = "q2 Q0 b 1 2 trained\nq2 Q0 a 2 1 trained\nq1 Q0 x%20y 1 1 trained\n"
    assert (tmp_path / "run.trec").read_text() == text
    with pytest.raises(ValueError, match="twice"):
        write_run(tmp_path / "run.trec", {"q": ["a", "a"]}, "trained")
    assert (tmp_path / "run.trec").read_text() == text


def test_a_run_is_read_by_score_with_ties_by_id_whatever_its_lines_order(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_bytes("\ufeffq Q0 b 1 1.5 t\r\nq\tQ0\tc\t2\t7e0\tt\r\n\r\nq Q0 a 3 1.5 t\n".encode())
    assert list(read_run(path)["q"].items()) == [("c", 7.0), ("a", 1.5), ("b", 1.5)]


def test_a_foreign_id_with_a_percent_sign_is_taken_as_it_stands_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 wiki/A%20b 1 1 t\n")
    assert read_run(path, known={"wiki/A%20b"}) == {"q": {"wiki/A%20b": 1.0}}
    assert read_run(path) == {"q": {"wiki/A b": 1.0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "hold at least one ranked passage"),
        (b"q Q0 a 1 1 t\nq Q0 b c 2 1 t\n", r"line 2 must have 6 columns, got '7: "),
        (b"q Q0 a 1 high t\n", r"line 1, score must be a finite number, got 'high'"),
        (b"q Q0 a 1 nan t\n", "finite number, got 'nan'"),
        (b"q Q0 a 1 2 t\nq Q0 a 2 1 t\n", "line 2 must rank each passage of a query once, got .*'a'"),
        (b"q Q0 a 1 2 t\n\xff\xfe\n", "line 2 must be UTF-8"),
    ],
)
def test_a_broken_run_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "run.trec").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_run(tmp_path / "run.trec")
    assert "run.trec" in str(caught.value)


def test_broken_judgements_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "qrels.trec"
    for content, message in [("q 0 a\n", "4 columns"), ("q 0 a 0.5\n", "whole number"), ("", "at least one")]:
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            read_qrels(path)
    with pytest.raises(DataError, match="must exist"):
        read_qrels(tmp_path / "absent.trec")
    with pytest.raises(DataError, match="readable file"):
        read_qrels(tmp_path)


def beir(folder: Path, **replaced: str | bytes | None) -> Path:
    """A collection of two queries and three passages, with files replaced or (None) removed."""
    files: dict[str, str | bytes | None] = {
        "queries": '{"_id": "q1", "text": "one"}\n{"_id": 2, "text": "two", "metadata": {}}\n',
        "corpus": '{"_id": "a/../b", "title": "T", "text": "body"}\n'
        '{"_id": "c d", "title": "", "text": "no title"}\n\n{"_id": "e", "title": null, "text": "x"}\n',
        "qrels": "query-id\tcorpus-id\tscore\nq1\ta/../b\t2\nq1\tc d\t0\n2\te\t1\n",
    }
    (folder / "qrels").mkdir(parents=True)
    names = {"queries": "queries.jsonl", "corpus": "corpus.jsonl", "qrels": "qrels/test.tsv", "run": "run.trec"}
    for key, content in {**files, **replaced}.items():
        if content is not None:
            (folder / names[key]).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_beir_folder_is_read(tmp_path: Path) -> None:
    collection = read_beir(beir(tmp_path / "tiny"))
    assert collection.name == "tiny"
    assert collection.queries == {"q1": "one", "2": "two"}
    assert collection.passages == {"a/../b": "T body", "c d": "no title", "e": "x"}
    assert collection.qrels == {"q1": {"a/../b": 2, "c d": 0}, "2": {"e": 1}}
    assert collection.run is None
    assert read_beir(tmp_path / "tiny", "other").name == "other"


def test_a_collections_own_run_is_read_and_passages_it_lacks_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = "q1 Q0 c%20d 1 3 t\nq1 Q0 gone 2 2 t\nq9 Q0 e 1 1 t\nq1 Q0 a/../b 3 1 t\n"
    collection = read_beir(beir(tmp_path / "c", run=run))
    assert collection.run == {"q1": {"c d": 3.0, "a/../b": 1.0}}
    assert "1 ranked passages of unknown queries and 1 of unknown passages dropped, first passage 'gone'" in caplog.text


def test_unknown_judgements_are_counted_and_fatal_only_when_none_remain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = "query-id\tcorpus-id\tscore\n"
    collection = read_beir(beir(tmp_path / "a", qrels=header + "q1\te\t1\nq1\tgone\t1\nq7\te\t1\nq8\te\t1\n"))
    assert collection.qrels == {"q1": {"e": 1}}
    assert "2 judgements of unknown queries and 1 of unknown passages dropped" in caplog.text
    with pytest.raises(DataError, match=r"test\.tsv must hold judgements of the collection's own ids"):
        read_beir(beir(tmp_path / "b", qrels=header + "q1\tgone\t1\n"))
    with pytest.raises(DataError, match="judge some passage relevant"):
        read_beir(beir(tmp_path / "c", qrels=header + "q1\te\t0\n"))


def test_queries_of_blank_text_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queries = '{"_id": "q1", "text": "one"}\n{"_id": "2", "text": " "}\n'
    assert list(read_beir(beir(tmp_path / "c", queries=queries)).queries) == ["q1"]
    assert "1 queries of blank text dropped, first '2'" in caplog.text


def test_judgements_fall_back_and_the_file_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = beir(tmp_path / "c", qrels=None)
    (folder / "qrels.tsv").write_text("q1\te\t1\n")  # without a header: its first line counts
    assert read_beir(folder).qrels == {"q1": {"e": 1}}
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n2\te\t3\n")
    assert read_beir(folder).qrels == {"2": {"e": 3}}
    assert "judgements of dev.tsv" in caplog.text


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"queries": None}, r"queries\.jsonl must exist"),
        ({"corpus": ""}, r"corpus\.jsonl must hold at least one line"),
        ({"qrels": None}, r"must hold one of qrels/test\.tsv"),
        ({"queries": '{"_id": "q1", "text": "one"\n'}, r"queries\.jsonl, line 1 must be one JSON object"),
        ({"queries": '["q1", "one"]\n'}, r"line 1 must be one JSON object"),
        (
            {"queries": '{"id": "q1", "text": "one"}\n'},
            r"key _id must be text or a whole number, got .*\['id', 'text'\]",
        ),
        ({"queries": '{"_id": true, "text": "one"}\n'}, r"key _id must be text or a whole number, got True"),
        ({"queries": '{"_id": "q1"}\n'}, r"line 1, key text must be there"),
        ({"corpus": '{"_id": "e", "text": ["x"]}\n'}, r"line 1, key text must be text"),
        ({"corpus": '{"_id": "e", "title": 7, "text": "x"}\n'}, r"line 1, key title must be text, got 7"),
        (
            {"corpus": '{"_id": "e", "text": "x"}\n{"_id": "e", "text": "y"}\n'},
            r"line 2, key _id must be distinct, got \"'e' again \(first on line 1\)\"",
        ),
        ({"corpus": b'{"_id": "e", "text": "\xe9"}\n'}, r"corpus\.jsonl, line 1 must be UTF-8"),
        ({"qrels": "query-id corpus-id score\n"}, r"test\.tsv, line 1 must have 3 columns between tabs"),
        ({"qrels": "q1\te\t1\nq1\te\tmuch\n"}, r"line 2, grade must be a whole number"),
        ({"qrels": "q1\te\t1\nq1\te\t2\n"}, r"line 2 must give a passage one grade"),
        ({"qrels": "q1\te\t999999999\n"}, r"line 1, grade must be a whole number up to 1000"),
    ],
)
def test_a_broken_collection_is_refused_with_file_line_and_key(
    tmp_path: Path, replaced: dict[str, str | bytes | None], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_beir(beir(tmp_path / "c", **replaced))


def test_a_missing_collection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a folder in the BEIR layout"):
        read_beir(tmp_path / "absent")


@pytest.mark.parametrize(("name", "counts"), [("scifact", (300, 5183, 339)), ("nfcorpus-stopped", (323, 3395, 12334))])
def test_a_public_collection_is_read_whole(name: str, counts: tuple[int, int, int]) -> None:
    if not (COLLECTIONS / name).is_dir():
        pytest.skip(f"the shared collection {name} is not beside this checkout")
    collection = read_beir(COLLECTIONS / name)
    judgements = sum(len(grades) for grades in collection.qrels.values())
    assert (len(collection.queries), len(collection.passages), judgements) == counts
    first = json.loads((COLLECTIONS / name / "corpus.jsonl").open().readline())
    assert collection.passages[first["_id"]] == f"{first['title']} {first['text']}".strip()
