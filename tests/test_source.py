"""From a source to a split: held-out sizes, a dev file, hub data sets and real files, and what a source must hold."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from beir_folders import write_beir
from pair_files import Row, data_config, load_split, pair_rows, pairs, refusal, write_jsonl

from pipeline.config.data import DataConfig, Format, Source
from pipeline.core.errors import DataError
from pipeline.core.records import Split, fold
from pipeline.data.source import load

# What a source must hold, and what it gives


@pytest.mark.parametrize("key", ["dev_path", "corpus_path"])
def test_missing_dev_file_or_corpus_is_refused_by_its_key(pairs_file: Path, key: str) -> None:
    assert refusal(pairs_file, **{key: "no.jsonl"}).startswith(f"data.{key}=no.jsonl must exist, got nothing there.")


@pytest.mark.parametrize(
    ("count", "keys", "remedy"),
    [
        (1, {}, "Give more rows, or check data.question_column and data.answer_column."),
        (
            60,
            {"label_column": "unused"},
            "Give more rows, or check data.question_column and data.answer_column.",
        ),
        (
            60,
            {"format": Format.labelled, "limit": 70},
            "Give more rows, raise data.limit, or check data.question_column, data.answer_column and "
            "data.positive_threshold.",
        ),
    ],
    ids=["one row", "pairs with a label column", "labelled rows with a limit"],
)
def test_fewer_than_100_usable_questions_refusal_names_the_keys_in_use(
    tmp_path: Path, count: int, keys: dict[str, Any], remedy: str
) -> None:
    rows = [{**row, "label": 1} for row in pair_rows(count)] if keys else pair_rows(count)
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert refusal(path, **keys) == f"{path} must hold at least 100 usable questions, got {count}. {remedy}"


def test_too_few_queries_of_a_beir_folder_refusal_names_no_columns(tmp_path: Path) -> None:
    queries, passages = {f"q{i}": f"what is {i}" for i in range(30)}, {f"d{i}": f"it is {i}" for i in range(30)}
    folder = write_beir(tmp_path / "beir", queries, passages, train=[(f"q{i}", f"d{i}", 1) for i in range(30)])
    assert refusal(folder, format=Format.beir, rows=20).endswith(
        "got 20. Give more rows, raise data.rows, or check data.positive_threshold."
    )


@pytest.mark.parametrize(("validation_queries", "held"), [(0, "dev"), (20, "dev or validation")])
def test_single_group_leaves_nothing_to_train_on_and_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, validation_queries: int, held: str
) -> None:
    caplog.set_level(logging.INFO)
    path = write_jsonl(tmp_path / "a.jsonl", [{**row, "title": "t"} for row in pair_rows(200)])
    assert refusal(path, group_column="title", validation_queries=validation_queries) == (
        f"the train part of {path} must hold usable rows, got none, because all rows are in groups held out for "
        f"{held}. Lower data.dev_queries and data.validation_queries, or use more or smaller groups."
    )
    left = "because there are only 0 questions that are not in the dev part or its groups"
    assert (f"data.validation_queries: 0 instead of 20, {left}" in caplog.text) == bool(validation_queries)


@pytest.mark.parametrize(("wish", "dev", "validation"), [(5, 20, 20), (25, 25, 25), (1000, 30, 24)])
def test_dev_queries_is_capped_at_a_fifth_and_raised_to_20(
    pairs_file: Path, wish: int, dev: int, validation: int
) -> None:
    split = load_split(pairs_file, dev_queries=wish, validation_queries=wish)
    assert split.validation is not None
    assert (len(split.dev), len(split.validation)) == (dev, validation)


def test_listed_negatives_are_passages_of_the_corpus(tmp_path: Path) -> None:
    rows = [{**row, "negatives": ["wrong", row["answer"]]} for row in pair_rows(100)]
    split = load_split(write_jsonl(tmp_path / "a.jsonl", rows), format=Format.negatives)
    assert set(split.corpus) == {"wrong", *(row["answer"] for row in rows)}
    assert split.corpus[0] == split.train.answers[0]


# A dev file


def write_dev(folder: Path, rows: list[Row]) -> Path:
    return write_jsonl(folder / "dev.jsonl", rows)


def new_rows(count: int) -> list[Row]:
    return [{"question": f"new {i}", "answer": f"New {i}."} for i in range(count)]


def test_dev_file_is_read_whole_and_rows_limits_training_alone(pairs_file: Path) -> None:
    dev = write_dev(pairs_file.parent, new_rows(30))
    split = load_split(pairs_file, dev_path=str(dev), rows=120)
    assert (len(split.train), len(split.dev)) == (120, 30)


def test_validation_holds_no_question_of_the_dev_file(pairs_file: Path) -> None:
    shared = [{"question": row["question"].upper(), "answer": row["answer"]} for row in pair_rows(60)]
    dev = write_dev(pairs_file.parent, shared + new_rows(30))
    split = load_split(pairs_file, dev_path=str(dev), validation_queries=20)
    assert split.validation is not None and len(split.validation) == 20
    dev_questions = {fold(question) for question in split.dev.questions}
    assert not dev_questions & {fold(question) for question in split.validation.questions}
    assert dev_questions & {fold(question) for question in split.train.questions}  # mining drops or counts these


def test_dev_file_whose_pairs_are_all_trained_on_is_refused(pairs_file: Path) -> None:
    dev = write_dev(pairs_file.parent, [{**row, "question": row["question"].upper()} for row in pair_rows(40)])
    for path, rows in ((dev, 40), (pairs_file, 150)):
        assert refusal(pairs_file, dev_path=str(path)) == (
            f"data.dev_path={path} must hold pairs that are not in the training data, "
            f"got {rows} rows that are all in {pairs_file}. "
            "Give other questions, or remove the key to split some off the training rows."
        )


def test_dev_file_with_every_training_question_leaves_no_validation(pairs_file: Path) -> None:
    dev = write_dev(pairs_file.parent, [{**row, "answer": f"{row['answer']} More."} for row in pair_rows(150)])
    assert refusal(pairs_file, dev_path=str(dev), validation_queries=20) == (
        f"data.dev_path={dev} must leave questions to train on, got all 150 of them in it. "
        "Give it other questions, or remove the key to split some off the training rows."
    )


def test_dev_file_with_fewer_than_20_questions_is_refused(pairs_file: Path) -> None:
    dev = write_dev(pairs_file.parent, new_rows(1))
    assert refusal(pairs_file, dev_path=str(dev)).startswith(
        f"data.dev_path={dev} must hold at least 20 usable questions, got 1."
    )


# Data sets of the hub


def hub_config(**keys: Any) -> DataConfig:
    return data_config("some/set", source=Source.hub, **keys)


def write_snapshot(folder: Path, rows: list[Row]) -> Path:
    """Write the local copy of a hub data set that is a single Parquet file."""
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder


@pytest.fixture
def gooaq_snapshot(tmp_path: Path) -> Path:
    """Return the local copy of a hub data set in the form of GooAQ: 400 shuffled rows in the subset `pair`."""
    folder = tmp_path / "snapshot"
    (folder / "pair").mkdir(parents=True)
    rows = pair_rows(400)
    random.Random(0).shuffle(rows)
    rows[7]["question"] = rows[3]["question"]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pair" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: pair\n  data_files:\n  - split: train\n    path: pair/train-*\n---\n"
    )
    return folder


def test_hub_rows_are_split_as_datasets_does(gooaq_snapshot: Path, tmp_path: Path) -> None:
    import datasets

    config = hub_config(subset="pair", rows=300, dev_queries=50, dedupe=False)
    split = load(config, source=gooaq_snapshot, cache=tmp_path / "cache")
    files = str(gooaq_snapshot / "pair" / "*")
    whole = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "c"))
    expected = whole["train"].select(range(300)).train_test_split(test_size=50, seed=12)
    for part, reference in ((split.train, expected["train"]), (split.dev, expected["test"])):
        assert (part.questions, part.answers) == (list(reference["question"]), list(reference["answer"]))


def test_all_hub_rows_of_a_held_out_question_are_held_out(tmp_path: Path) -> None:
    rows = [{"question": f"question {i // 2}", "answer": f"Answer {i}."} for i in range(400)]
    rows[0]["answer"] = " "
    folder = write_snapshot(tmp_path / "snapshot", rows)
    config = hub_config(rows=None, dev_queries=40, validation_queries=20)
    split = load(config, source=folder, cache=tmp_path / "cache")
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
    ids=["split", "column"],
)
def test_hub_data_set_without_the_split_or_column_is_refused(
    gooaq_snapshot: Path, tmp_path: Path, keys: dict[str, str], sentence: str
) -> None:
    with pytest.raises(DataError) as error:
        load(hub_config(subset="pair", **keys), source=gooaq_snapshot, cache=tmp_path / "cache")
    assert str(error.value).startswith(sentence.format(folder=gooaq_snapshot))
    assert "\n" not in str(error.value)


def test_hub_data_set_with_a_label_column_is_refused_in_format_pairs(tmp_path: Path) -> None:
    folder = write_snapshot(tmp_path / "snapshot", [{**row, "label": 0} for row in pair_rows(4)])
    with pytest.raises(DataError, match=r"^data\.format must read the column 'label' of some/set \(.*\), got 'p"):
        load(hub_config(), source=folder, cache=tmp_path / "cache")


@pytest.mark.parametrize("kind", ["Dataset", "DatasetDict"])
def test_folder_of_save_to_disk_refusal_names_the_remedy(tmp_path: Path, kind: str) -> None:
    import datasets

    whole = datasets.Dataset.from_list(pair_rows(4))
    saved = whole if kind == "Dataset" else datasets.DatasetDict({"train": whole})
    saved.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"must be a data set repository, got a folder made by save_to_disk\. Write "):
        load(hub_config(), source=tmp_path / "saved", cache=tmp_path / "cache")


def test_disk_full_inside_datasets_is_not_a_data_error(
    gooaq_snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def full(*_: Any, **__: Any) -> None:  # as it wraps whatever the conversion meets
        raise datasets.exceptions.DatasetGenerationError("generating") from OSError(28, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        load(hub_config(subset="pair"), source=gooaq_snapshot, cache=tmp_path / "cache")


# The shared data


def shared_file(folder: Path, name: str) -> Path:
    if not (folder / name).exists():
        pytest.skip(f"the shared data lacks {name}")
    return folder / name


@pytest.mark.parametrize(
    ("name", "rows", "keys"),
    [("qed-nq-train", 7167, {}), ("squad-du-test", 11877, {"group_column": "title"}), ("medquad", 16407, {})],
    ids=["qed-nq-train", "squad-du-test", "medquad"],
)
def test_real_pairs_are_read_whole_and_split_by_question(
    shared_data: Path, tmp_path: Path, name: str, rows: int, keys: dict[str, str]
) -> None:
    path = shared_file(shared_data, f"pairs/{name}.jsonl")
    split = load(data_config(path, **keys), source=None, cache=tmp_path)
    assert split.statistics["rows_read"] == rows
    held = {fold(question) for question in split.dev.questions}
    assert len(held) == 1000
    assert held.isdisjoint(fold(question) for question in split.train.questions)


@pytest.fixture
def gooaq_rows(shared_data: Path) -> list[Row]:
    """Return real rows of GooAQ, each 60 times under different questions."""
    lines = shared_file(shared_data, "fixtures/gooaq-real-rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if line]
    return [{**row, "question": f"{row['question']} {i}"} for i in range(60) for row in rows]


@pytest.fixture
def gooaq_split(gooaq_rows: list[Row], tmp_path: Path) -> Split:
    return load_split(write_jsonl(tmp_path / "a.jsonl", gooaq_rows))


def test_null_answers_of_gooaq_are_dropped_and_counted(gooaq_rows: list[Row], gooaq_split: Split) -> None:
    parts: Any = gooaq_split.statistics["parts"]
    nulls = sum(row["answer"] is None for row in gooaq_rows)
    assert nulls > 0
    assert sum(part["dropped"].get("blank_or_null_answer", 0) for part in parts.values()) == nulls


def test_answers_of_gooaq_that_look_like_lists_stay_text(gooaq_split: Split) -> None:
    assert any(answer.startswith("['University of Birmingham.'") for answer in gooaq_split.train.answers)
