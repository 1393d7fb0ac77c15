"""BEIR folders: what is read, dropped and counted, and one clear sentence for each thing wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from pipeline.core.errors import DataError
from pipeline.data.beir import passage_id, read_beir, read_passage

COLLECTIONS = Path(__file__).resolve().parents[2] / "shared" / "data" / "collections"


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
    said = "1 ranked passages with unknown queries dropped and 1 with unknown passages dropped, first passage 'gone'"
    assert said in caplog.text


def test_a_run_that_is_not_asked_for_cannot_refuse_the_folder(tmp_path: Path) -> None:
    folder = beir(tmp_path / "c", run="broken")
    assert read_beir(folder, is_measured=False).run is None
    with pytest.raises(DataError, match=r"run\.trec, line 1 must have 6 columns"):
        read_beir(folder)


def test_unknown_judgements_are_counted_and_fatal_only_when_none_remain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = "query-id\tcorpus-id\tscore\n"
    collection = read_beir(beir(tmp_path / "a", qrels=header + "q1\te\t1\nq1\tgone\t1\nq7\te\t1\nq8\te\t1\n"))
    assert collection.qrels == {"q1": {"e": 1, "gone": 1}}, "as in BEIR's evaluation: nobody can find it"
    said = "2 judgements with unknown queries dropped and 1 with unknown passages "
    assert said + "kept" in caplog.text
    assert read_beir(tmp_path / "a", is_measured=False).qrels == {"q1": {"e": 1}}
    assert said + "dropped" in caplog.text
    with pytest.raises(DataError, match=r"test\.tsv must hold judgements with the collection's ids"):
        read_beir(beir(tmp_path / "b", qrels=header + "q1\tgone\t1\n"))
    with pytest.raises(DataError, match="judge some passage relevant"):
        read_beir(beir(tmp_path / "c", qrels=header + "q1\te\t0\n"))


def test_queries_of_blank_text_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queries = '{"_id": "q1", "text": "one"}\n{"_id": "2", "text": " "}\n'
    assert list(read_beir(beir(tmp_path / "c", queries=queries)).queries) == ["q1"]
    assert "1 queries without text dropped, first '2'" in caplog.text


def test_judgements_fall_back_and_the_file_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = beir(tmp_path / "c", qrels=None)
    (folder / "qrels.tsv").write_text("q1\te\t1\n")  # without a header: its first line counts
    assert read_beir(folder).qrels == {"q1": {"e": 1}}
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n2\te\t3\n")
    assert read_beir(folder).qrels == {"2": {"e": 3}}
    assert "judgements of dev.tsv" in caplog.text
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [f"{folder} has no qrels/test.tsv: it is measured on dev.tsv"]
    read_beir(folder, is_measured=False)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1, "of what is trained on"


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"_id": 7, "title": "T", "text": "x"}, ("7", "T", "x")),
        ({"_id": None, "id": "b\ud800", "title": None, "text": None}, ("b\ufffd", "", "")),
        ({"_id": "", "id": "b", "text": "x"}, ("", "", "x")),
        ({"id": None, "text": " x "}, (None, "", " x ")),
    ],
)
def test_a_passages_record_is_read_with_null_as_none(record: dict[str, object], found: tuple[object, ...]) -> None:
    assert (passage_id(record), *read_passage(record, "a file, line 1")) == found


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
            r"key _id must be text or a whole number, got only the keys \['id', 'text'\]",
        ),
        ({"queries": '{"_id": true, "text": "one"}\n'}, r"key _id must be text or a whole number, got True"),
        ({"queries": '{"_id": "q1"}\n'}, r"line 1, key text must be present"),
        ({"corpus": '{"_id": "e", "text": ["x"]}\n'}, r"line 1, key text must be text"),
        ({"corpus": '{"_id": "e", "title": 7, "text": "x"}\n'}, r"line 1, key title must be text, got 7"),
        (
            {"corpus": '{"_id": "e", "text": "x"}\n{"_id": "e", "text": "y"}\n'},
            r"line 2, key _id must be unique, got 'e' again \(first on line 1\)\.",
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
