"""TREC files: exact text in and out, odd ids, and one clear sentence for each thing wrong."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DataError
from pipeline.data.trec import escape, read_qrels, read_run, unescape, write_qrels, write_run

IDS = st.text(st.characters(), max_size=8) | st.sampled_from(["../../x", "a b", "%", "%20", "50%", "\ud800", "\0", ""])
CHANCE = random.Random(5)


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
    ids=[
        *["plain", "path", "percent sign", "space", "tab", "line break", "escaped space", "letter beyond ASCII"],
        *["no-break space", "empty", "percent sign alone"],
    ],
)
def test_id_is_escaped_only_where_a_column_cannot_hold_it(identifier: str, column: str) -> None:
    assert escape(identifier) == column
    assert unescape(column) == identifier


@given(st.lists(IDS, max_size=5, unique=True))
def test_escaped_ids_are_single_distinct_columns(ids: list[str]) -> None:
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


def test_run_is_written_in_rank_order_with_decreasing_scores(tmp_path: Path) -> None:
    write_run(tmp_path / "run.trec", {"q2": ["b", "a"], "q1": ["x y"], "none": []}, "trained")
    text = "q2 Q0 b 1 2 trained\nq2 Q0 a 2 1 trained\nq1 Q0 x%20y 1 1 trained\n"
    assert (tmp_path / "run.trec").read_text() == text


def test_run_with_a_passage_ranked_twice_does_not_replace_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("as before")
    with pytest.raises(ValueError, match="twice"):
        write_run(path, {"q": ["a", "a"]}, "trained")
    assert path.read_text() == "as before"


def test_run_is_read_by_score_with_ties_by_id(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_bytes("\ufeffq Q0 b 1 1.5 t\r\nq\tQ0\tc\t2\t7e0\tt\r\n\r\nq Q0 a 3 1.5 t\n".encode())
    assert list(read_run(path)["q"].items()) == [("c", 7.0), ("a", 1.5), ("b", 1.5)]


def test_known_id_with_a_percent_sign_is_not_unescaped(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 wiki/A%20b 1 1 t\n")
    assert read_run(path, known={"wiki/A%20b"}) == {"q": {"wiki/A%20b": 1.0}}
    assert read_run(path) == {"q": {"wiki/A b": 1.0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "hold at least one ranked passage"),
        (b"q Q0 a 1 1 t\nq Q0 b c 2 1 t\n", r"line 2 must have 6 columns, got 7: 'q Q0 b c"),
        (b"q Q0 a 1 high t\n", r"line 1, score must be a finite number, got 'high'"),
        (b"q Q0 a 1 nan t\n", "finite number, got 'nan'"),
        (b"q Q0 a 1 2 t\nq Q0 a 2 1 t\n", "line 2 must rank each passage of a query once, got .*'a'"),
        (b"q Q0 a 1 2 t\n\xff\xfe\n", "line 2 must be UTF-8"),
    ],
    ids=["empty file", "extra column", "word as score", "NaN as score", "passage twice", "not UTF-8"],
)
def test_broken_run_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "run.trec").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_run(tmp_path / "run.trec")
    assert "run.trec" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("q 0 a\n", "4 columns"), ("q 0 a 0.5\n", "whole number"), ("", "at least one")],
    ids=["missing column", "fraction as grade", "empty file"],
)
def test_broken_judgements_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "qrels.trec"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_qrels(path)


def test_missing_or_unreadable_judgements_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must exist"):
        read_qrels(tmp_path / "absent.trec")
    with pytest.raises(DataError, match="readable file"):
        read_qrels(tmp_path)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (lambda rank: rank / 10, "got scores that rise with the rank for 12 of 12 queries. Only scores .* negate"),
        (lambda rank: 0.0, "got one score for all passages of 12 of 12 queries. .* write scores that fall with the r"),
    ],
    ids=["rising", "constant"],
)
def test_run_whose_scores_do_not_fall_with_its_ranks_is_refused(
    tmp_path: Path, score: Callable[[int], float], expected: str
) -> None:
    path = tmp_path / "run.trec"
    path.write_text("".join(f"q{q} Q0 d{r} {r} {score(r)} x\n" for q in range(12) for r in range(1, 5)))
    with pytest.raises(DataError, match=f"must give the first rank a higher score than the last, {expected}"):
        read_run(path)


@pytest.mark.parametrize(
    "lines",
    [
        [f"q{q} Q0 d{r} {r} {score} x\n" for q in range(200) for r, score in enumerate(CHANCE.sample(range(10), 10))],
        [f"q{q} Q0 d{r} 0 {r}.5 x\n" for q in range(30) for r in range(4)],
        [f"q{q} Q0 d{r} {r} {r}.5 x\n" for q in range(3) for r in range(4)],
        [f"q{q} Q0 d{r} {r} 1 x\n" for q in range(40) for r in range(1 + (q < 12))],
    ],
    ids=["ranks of an earlier stage", "no ranks", "few queries", "mostly one passage a query"],
)
def test_run_without_clear_evidence_of_rising_scores_is_accepted(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "run.trec").write_text("".join(lines))
    assert len(read_run(tmp_path / "run.trec")) >= 3
