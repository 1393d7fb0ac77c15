"""A file's suffix decides how it is read; its path and its columns may have any name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pair_files import data_config, load_split, pair_rows, pairs, refusal, write_jsonl, write_rows

from pipeline.data.readers import read


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_split(pairs_file: Path, suffix: str) -> None:
    expected, split = load_split(pairs_file), load_split(write_rows(pairs_file.with_suffix(suffix), pair_rows(150)))
    assert pairs(split.train) == pairs(expected.train)
    assert pairs(split.dev) == pairs(expected.dev)
    assert split.corpus == expected.corpus


def test_rows_takes_the_first_rows(pairs_file: Path) -> None:
    split = load_split(pairs_file, rows=120)
    assert sorted(split.train.lines + split.dev.lines) == list(range(1, 121))


def test_columns_are_read_under_their_configured_names(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "x", "a": "y", "question": 1, "site": None}])
    rows = read(path, data_config(path, question_column="q", answer_column="a", group_column="site")).rows
    assert (rows.questions, rows.answers, rows.groups) == (["x"], ["y"], ["row 1"])


def test_column_name_may_hold_a_dot_or_be_empty(tmp_path: Path) -> None:
    rows = [{"q.u": row["question"], "": row["answer"]} for row in pair_rows(120)]
    jsonl, parquet = (write_rows(tmp_path / f"a{suffix}", rows) for suffix in (".jsonl", ".parquet"))
    keys = {"question_column": "q.u", "answer_column": ""}
    assert pairs(load_split(jsonl, **keys).train) == pairs(load_split(parquet, **keys).train)


@pytest.mark.parametrize(
    "name",
    ["a b/c d.jsonl", "dätä/漢字.jsonl", "[a]*?.jsonl", "a=b,c's.jsonl", "a\nb.jsonl"],
    ids=["spaces", "unicode", "glob pattern", "override syntax", "line break"],
)
def test_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    assert len(load_split(write_jsonl(path, pair_rows(120))).train) > 0


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.jsonl") == (
        f"{tmp_path}/no.jsonl must exist, got nothing there. Correct data.path (or data.dev_path)."
    )


def test_folder_is_refused(tmp_path: Path) -> None:
    assert "must be a file, got a folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("a.xlsx", "Save the sheet as CSV in UTF-8."), ("a.jsonl.gz", "Unpack it first.")],
)
def test_unknown_suffix_refusal_names_the_remedy(tmp_path: Path, name: str, remedy: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    assert refusal(path) == (
        f"{path} must end in one of .jsonl, .ndjson, .json, .csv, .tsv, .tab, .parquet, .pq, got {path.suffix!r}. "
        f"{remedy}"
    )
