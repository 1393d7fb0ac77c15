"""BEIR folders: what is read, dropped and counted, one sentence for each thing wrong, and pairs to train on."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from beir_folders import write_beir
from pair_files import load_split, pairs, refusal, write_jsonl

from pipeline.config.data import Format
from pipeline.core.errors import DataError
from pipeline.core.records import Split
from pipeline.data.beir import passage_id, read_beir, read_passage

HEADER = "query-id\tcorpus-id\tscore\n"


def collection_files(folder: Path, **replaced: str | bytes | None) -> Path:
    """Write a collection of two queries and three passages, with files replaced or (None) left out."""
    files: dict[str, str | bytes | None] = {
        "queries": '{"_id": "q1", "text": "one"}\n{"_id": 2, "text": "two", "metadata": {}}\n',
        "corpus": '{"_id": "a/../b", "title": "T", "text": "body"}\n'
        '{"_id": "c d", "title": "", "text": "no title"}\n\n{"_id": "e", "title": null, "text": "x"}\n',
        "qrels": HEADER + "q1\ta/../b\t2\nq1\tc d\t0\n2\te\t1\n",
    }
    (folder / "qrels").mkdir(parents=True)
    names = {"queries": "queries.jsonl", "corpus": "corpus.jsonl", "qrels": "qrels/test.tsv", "run": "run.trec"}
    for key, content in {**files, **replaced}.items():
        if content is not None:
            (folder / names[key]).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


# Collections to evaluate on


def test_queries_passages_and_grades_are_read(tmp_path: Path) -> None:
    collection = read_beir(collection_files(tmp_path / "tiny"))
    assert collection.name == "tiny"
    assert collection.queries == {"q1": "one", "2": "two"}
    assert collection.passages == {"a/../b": "T body", "c d": "no title", "e": "x"}
    assert collection.qrels == {"q1": {"a/../b": 2, "c d": 0}, "2": {"e": 1}}
    assert collection.run is None
    assert read_beir(tmp_path / "tiny", "other").name == "other"


def test_run_of_a_collection_is_read_without_unknown_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = "q1 Q0 c%20d 1 3 t\nq1 Q0 gone 2 2 t\nq9 Q0 e 1 1 t\nq1 Q0 a/../b 3 1 t\n"
    collection = read_beir(collection_files(tmp_path / "c", run=run))
    assert collection.run == {"q1": {"c d": 3.0, "a/../b": 1.0}}
    expected = (
        "1 ranked passages with unknown queries dropped and 1 with unknown passages dropped, first passage 'gone'"
    )
    assert expected in caplog.text


def test_broken_run_is_refused_only_where_it_is_measured(tmp_path: Path) -> None:
    folder = collection_files(tmp_path / "c", run="broken")
    assert read_beir(folder, is_measured=False).run is None
    with pytest.raises(DataError, match=r"run\.trec, line 1 must have 6 columns"):
        read_beir(folder)


def test_judgements_with_unknown_ids_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = collection_files(tmp_path / "c", qrels=HEADER + "q1\te\t1\nq1\tgone\t1\nq7\te\t1\nq8\te\t1\n")
    assert read_beir(folder).qrels == {"q1": {"e": 1, "gone": 1}}, "as in BEIR's evaluation: nobody can find it"
    expected = "2 judgements with unknown queries dropped and 1 with unknown passages "
    assert expected + "kept" in caplog.text
    assert read_beir(folder, is_measured=False).qrels == {"q1": {"e": 1}}
    assert expected + "dropped" in caplog.text


def test_queries_of_blank_text_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queries = '{"_id": "q1", "text": "one"}\n{"_id": "2", "text": " "}\n'
    assert list(read_beir(collection_files(tmp_path / "c", queries=queries)).queries) == ["q1"]
    assert "1 queries without text dropped, first '2'" in caplog.text


def test_judgements_other_than_test_are_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = collection_files(tmp_path / "c", qrels=None)
    (folder / "qrels.tsv").write_text("q1\te\t1\n")  # without a header: its first line counts
    assert read_beir(folder).qrels == {"q1": {"e": 1}}
    (folder / "qrels" / "dev.tsv").write_text(HEADER + "2\te\t3\n")
    assert read_beir(folder).qrels == {"2": {"e": 3}}
    assert "judgements of dev.tsv" in caplog.text
    expected = [f"{folder} has no qrels/test.tsv: it is measured on dev.tsv"]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == expected
    read_beir(folder, is_measured=False)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1, "none for training"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"_id": 7, "title": "T", "text": "x"}, ("7", "T", "x")),
        ({"_id": None, "id": "b\ud800", "title": None, "text": None}, ("b\ufffd", "", "")),
        ({"_id": "", "id": "b", "text": "x"}, ("", "", "x")),
        ({"id": None, "text": " x "}, (None, "", " x ")),
    ],
    ids=["whole number as id", "nulls and a lone surrogate", "empty id", "no id and no title"],
)
def test_passage_record_is_read_with_null_as_absent(record: dict[str, object], expected: tuple[object, ...]) -> None:
    assert (passage_id(record), *read_passage(record, "a file, line 1")) == expected


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        pytest.param({"queries": None}, r"queries\.jsonl must exist", id="no queries"),
        pytest.param({"corpus": ""}, r"corpus\.jsonl must hold at least one line", id="empty corpus"),
        pytest.param({"qrels": None}, r"must hold one of qrels/test\.tsv", id="no judgements"),
        pytest.param(
            {"queries": '{"_id": "q1", "text": "one"\n'},
            r"queries\.jsonl, line 1 must be one JSON object",
            id="broken JSON",
        ),
        pytest.param({"queries": '["q1", "one"]\n'}, r"line 1 must be one JSON object", id="list"),
        pytest.param(
            {"queries": '{"id": "q1", "text": "one"}\n'},
            r"key _id must be text or a whole number, got only the keys \['id', 'text'\]",
            id="no _id",
        ),
        pytest.param(
            {"queries": '{"_id": true, "text": "one"}\n'},
            r"key _id must be text or a whole number, got True",
            id="boolean as _id",
        ),
        pytest.param({"queries": '{"_id": "q1"}\n'}, r"line 1, key text must be present", id="no text"),
        pytest.param(
            {"corpus": '{"_id": "e", "text": ["x"]}\n'}, r"line 1, key text must be text", id="list as text"
        ),
        pytest.param(
            {"corpus": '{"_id": "e", "title": 7, "text": "x"}\n'},
            r"line 1, key title must be text, got 7",
            id="number as title",
        ),
        pytest.param(
            {"corpus": '{"_id": "e", "text": "x"}\n{"_id": "e", "text": "y"}\n'},
            r"line 2, key _id must be unique, got 'e' again \(first on line 1\)\.",
            id="repeated passage id",
        ),
        pytest.param(
            {"queries": '{"_id": "q", "text": "a"}\n{"_id": "q", "text": "b"}\n'},
            r"queries\.jsonl, line 2, key _id must be unique, got 'q' again \(first on line 1\)\.",
            id="repeated query id",
        ),
        pytest.param(
            {"corpus": b'{"_id": "e", "text": "\xe9"}\n'}, r"corpus\.jsonl, line 1 must be UTF-8", id="not UTF-8"
        ),
        pytest.param(
            {"qrels": "query-id corpus-id score\n"},
            r"test\.tsv, line 1 must have 3 columns between tabs",
            id="spaces for tabs",
        ),
        pytest.param(
            {"qrels": "q1\te\t1\nq1\te\tmuch\n"}, r"line 2, grade must be a whole number", id="word as grade"
        ),
        pytest.param({"qrels": "q1\te\t1\nq1\te\t2\n"}, r"line 2 must give a passage one grade", id="two grades"),
        pytest.param(
            {"qrels": "q1\te\t999999999\n"}, r"line 1, grade must be a whole number up to 1000", id="grade too high"
        ),
        pytest.param(
            {"qrels": HEADER + "q1\tgone\t1\n"},
            r"test\.tsv must hold judgements with the collection's ids",
            id="unknown ids alone",
        ),
        pytest.param({"qrels": HEADER + "q1\te\t0\n"}, "judge some passage relevant", id="nothing relevant"),
    ],
)  # fmt: skip
def test_broken_collection_is_refused_with_file_line_and_key(
    tmp_path: Path, replaced: dict[str, str | bytes | None], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_beir(collection_files(tmp_path / "c", **replaced))


def test_missing_collection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a folder in the BEIR layout"):
        read_beir(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "counts"),
    [("scifact", (300, 5183, 339)), ("nfcorpus-stopped", (323, 3395, 12334))],
    ids=["scifact", "nfcorpus-stopped"],
)
def test_public_collection_is_read_whole(shared_data: Path, name: str, counts: tuple[int, int, int]) -> None:
    folder = shared_data / "collections" / name
    if not folder.is_dir():
        pytest.skip(f"the shared data lacks the collection {name}")
    collection = read_beir(folder)
    judgements = sum(len(grades) for grades in collection.qrels.values())
    assert (len(collection.queries), len(collection.passages), judgements) == counts
    first = json.loads((folder / "corpus.jsonl").open().readline())
    assert collection.passages[first["_id"]] == f"{first['title']} {first['text']}".strip()


# Pairs to train on


def write_answered(folder: Path, queries: int, passages: dict[str, str]) -> Path:
    """Write a folder whose first passages answer its queries, one each."""
    texts = {f"{folder.name}{i}": f"{folder.name} {i}" for i in range(queries)}
    return write_beir(
        folder, texts, passages, test=[(query, passage, 1) for query, passage in zip(texts, passages, strict=False)]
    )


@pytest.fixture
def graded_folder(tmp_path: Path) -> Path:
    """Return a folder of 110 queries with a passage of grade 2 and one of grade 1; each text has two ids."""
    grades = [(f"q{i}", f"d{2 * i + step}", grade) for i in range(110) for step, grade in ((0, 2), (2, 1))]
    passages = {f"d{i}": ("T", f"text {i // 2}") for i in range(240)}
    return write_beir(tmp_path / "graded", {f"q{i}": f"query {i}" for i in range(110)}, passages, test=grades)


def test_pairs_are_the_judgements_from_the_positive_threshold_up(graded_folder: Path) -> None:
    split = load_split(graded_folder, format=Format.beir, positive_threshold=2)
    assert (len(split.train), len(split.dev)) == (88, 22)
    number = int((split.dev.question_ids or [])[0][1:])
    assert pairs(split.dev)[0] == (f"query {number}", f"T text {number}")
    assert len(load_split(graded_folder, format=Format.beir).train) == 2 * 88


def test_passages_of_one_text_are_searched_once_under_the_first_id(graded_folder: Path) -> None:
    split = load_split(graded_folder, format=Format.beir, positive_threshold=2)
    assert len(split.corpus) == 120
    assert split.corpus_ids == [f"d{i}" for i in range(0, 240, 2)]


def test_rows_takes_no_part_of_a_querys_judgements(graded_folder: Path) -> None:
    cut = load_split(graded_folder, format=Format.beir, rows=213)
    assert len(cut.train) + len(cut.dev) == 212


@pytest.fixture
def folder_with_two_splits(tmp_path: Path) -> Path:
    """Return a folder whose train judgements are of queries 0 to 119 and whose test judgements are of the last 30."""
    numbers = {"test": range(120, 150), "train": range(120)}
    qrels = {name: [(f"q{i}", f"d{i}", 1 + (i % 3 == 0)) for i in part] for name, part in numbers.items()}
    queries, passages = ({f"{kind[0]}{i}": f"{kind} {i}" for i in range(150)} for kind in ("query", "document"))
    return write_beir(tmp_path / "both", queries, passages, **qrels)


def test_train_judgements_are_trained_on(folder_with_two_splits: Path) -> None:
    split = load_split(folder_with_two_splits, format=Format.beir)
    assert {int(question.split()[1]) for question in split.train.questions} < set(range(120))


def test_dev_path_of_the_same_folder_reads_its_test_judgements(folder_with_two_splits: Path) -> None:
    (folder_with_two_splits / "run.trec").write_text("broken")  # read of a collection that is evaluated only
    split = load_split(folder_with_two_splits, format=Format.beir, dev_path=str(folder_with_two_splits))
    assert split.dev.questions == [f"query {i}" for i in range(120, 150)] and len(split.train) == 120
    assert split.dev.labels == [1.0 + (i % 3 == 0) for i in range(120, 150)], "grades are kept"


def test_file_as_a_beir_folder_is_refused(pairs_file: Path) -> None:
    assert "must be a folder in the BEIR layout" in refusal(pairs_file, format=Format.beir)


# A dev folder beside the one that is trained on


@pytest.mark.parametrize(
    ("train", "dev", "expected"),
    [
        ({"a": "one", "a@1": "two"}, {"a": "three"}, {"one": "a", "two": "a@1", "three": "a@1@1"}),
        ({"a": "one"}, {"a": "three", "a@1": "four"}, {"one": "a", "three": "a@1", "four": "a@1@1"}),
        ({"a": "one", "b": "one"}, {"b": "two"}, {"one": "a", "two": "b@1"}),
    ],
    ids=["new id is taken in train", "new id is taken in dev", "id is that of a repeated text in train"],
)
def test_dev_passage_with_a_taken_id_is_renamed(
    tmp_path: Path, train: dict[str, str], dev: dict[str, str], expected: dict[str, str]
) -> None:
    for name, passages in (("train", train), ("dev", dev)):
        queries = {f"{name}{i}": f"{name} {i}" for i in range(110)}
        answers = {f"{name}{i}": f"text {name} {i}" for i in range(110)}
        write_beir(tmp_path / name, queries, {**passages, **answers}, test=[(query, query, 1) for query in queries])
    split = load_split(tmp_path / "train", format=Format.beir, dev_path=str(tmp_path / "dev"))
    ids = dict(zip(split.corpus, split.corpus_ids or [], strict=True))
    assert {text: ids[text] for text in expected} == expected
    assert split.renamed == [next(iter(dev))]


@pytest.fixture
def train_folder(tmp_path: Path) -> Path:
    """Return a folder of 120 queries and 121 passages, the last with the text of another."""
    return write_answered(tmp_path / "a", 120, {f"t{i}": f"text {i}" for i in range(120)} | {"t120": "text 5"})


def load_beside(train: Path, passages: dict[str, str], **keys: str) -> Split:
    """Return the split with a dev folder of 30 answered queries and the given passages."""
    fresh = {f"d{i}": f"other {i}" for i in range(30)}
    dev = write_answered(train.parent / "b", 30, fresh | passages)
    return load_split(train, format=Format.beir, dev_path=str(dev), **keys)


def test_texts_of_both_folders_are_searched_once_with_aliases(train_folder: Path) -> None:
    split = load_beside(train_folder, {"t7": "text 7", "x": "text 8", "y": "text 8", "z": "other 1"})
    assert split.corpus == [f"text {i}" for i in range(120)] + [f"other {i}" for i in range(30)]
    assert split.corpus_ids == [f"t{i}" for i in range(120)] + [f"d{i}" for i in range(30)]
    assert split.aliases == {"t120": "t5", "x": "t8", "y": "t8", "z": "d1"} and split.renamed == []


def test_id_with_another_text_in_the_dev_folder_is_listed_as_renamed(train_folder: Path) -> None:
    """A text that is new, one that train has under another id, and one that the dev folder has twice."""
    split = load_beside(train_folder, {"t1": "new", "t2": "text 3", "t4": "other 0", "t120": "text 5"})
    assert split.renamed == ["t1", "t2", "t4"]
    assert dict(zip(split.corpus_ids or [], split.corpus, strict=True))["t1@1"] == "new" and split.corpus[1] == "text 1"


def test_folders_ids_have_no_aliases_beside_an_own_corpus(train_folder: Path) -> None:
    corpus = write_jsonl(train_folder.parent / "own.jsonl", [{"_id": f"t{i}", "text": f"own {i}"} for i in range(9)])
    assert load_split(train_folder, format=Format.beir, corpus_path=str(corpus)).aliases == {}
