"""A run file as the first stage: its order, its ids, and the runs that are refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from mining_data import CATS, DEV, config, rows, split, triples

from pipeline.config.data import Retriever
from pipeline.core.errors import DataError
from pipeline.core.records import Split
from pipeline.mining.imported_run import ImportedRun
from pipeline.mining.miner import mine


def test_imported_run_ranks_by_score_then_passage() -> None:
    run = ImportedRun({"a": {4: 1.0, 2: 3.0, 1: 1.0}})
    found = run.search(["a", "b"], 2)
    assert found.indices.tolist() == [[2, 1], [-1, -1]]
    assert found.scores.tolist() == [[3.0, 1.0], [-math.inf, -math.inf]]
    assert run.score(["a", "b"], np.array([0, 0, 1]), np.array([4, 3, 4])).tolist() == [1.0, -math.inf, -math.inf]


def split_with_ids() -> Split:
    """Return training questions a to d, the dev question e and their answers A to E."""
    whole = split(rows(CATS, question_ids=["a", "b", "c", "d"]), rows(DEV, question_ids=["e"]))
    whole.corpus_ids = ["A", "B", "C", "D", "E"]
    return whole


def test_run_ranks_by_the_ids_of_the_data(tmp_path: Path) -> None:
    run = tmp_path / "run.trec"
    lines = ["a Q0 C 1 3 x", "a Q0 E 2 2.5 x", "a Q0 A 3 2 x", "a Q0 B 4 1 x", "e Q0 B 1 2 x", "e Q0 E 2 1 x"]
    run.write_text("\n".join(lines) + "\n")
    imported = config(retriever=Retriever.run, path=str(run), negatives=1, absolute_margin=0.0, dev_depth=2)
    mined = mine(split_with_ids(), imported, tmp_path)
    # C outscores the positive A, E is a dev answer; b, c and d are not ranked.
    assert [row[1:] for row in triples(mined.train) if row[0] == CATS[0][0]] == [(CATS[0][1], 1.0), (CATS[1][1], 0.0)]
    assert mined.statistics["questions_without_negatives"] == 3
    assert mined.dev.candidates == {"e": ["B", "E"]}


def test_run_without_a_known_question_or_passage_is_refused(tmp_path: Path) -> None:
    whole, run = split_with_ids(), tmp_path / "run.trec"
    whole.dev.question_ids = ["z"]
    imported = config(retriever=Retriever.run, path=str(run), negatives=1)
    run.write_text("a Q0 C 1 3 x\ne Q0 B 1 2 x\n")
    with pytest.raises(DataError, match=r"run\.trec must rank questions of this data, such as 'z', got 'a'"):
        mine(whole, imported, tmp_path)
    run.write_text("a Q0 X 1 3 x\nz Q0 X 1 3 x\n")
    with pytest.raises(DataError, match=r"run\.trec must rank passages of this data, such as 'A', got 'X'"):
        mine(whole, imported, tmp_path)


def test_run_may_name_a_passage_by_any_id_of_its_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, run = split_with_ids(), tmp_path / "run.trec"
    whole.aliases = {"E2": "E"}
    whole.corpus.append(f" {DEV[0][1].upper()} ")
    whole.corpus_ids = [*(whole.corpus_ids or []), "E3"]  # the same text, folded
    imported = config(retriever=Retriever.run, path=str(run), negatives=1, dev_depth=2)
    run.write_text("a Q0 C 1 3 x\ne Q0 E2 1 2 x\ne Q0 E 2 1 x\ne Q0 B 3 0.5 x\nz Q0 B 1 1 x\ne Q0 Z 4 0.1 x\n")
    assert mine(whole, imported, tmp_path).dev.candidates == {"e": ["E", "B"]}
    skipped = "skipped 1 questions, and 1 ranked passages of the other questions: their ids are not used here"
    assert skipped in caplog.text
    assert "train: 3 of 4 questions have positives but no negative" in caplog.text
    run.write_text("a Q0 C 1 3 x\ne Q0 E3 1 2 x\n")
    assert mine(whole, imported, tmp_path).dev.candidates == {"e": ["E"]}


def test_later_ranking_counts_for_both_ids_of_a_question(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, run = split_with_ids(), tmp_path / "run.trec"
    whole.dev = rows([*DEV, *DEV], question_ids=["e", "e2"])
    imported = config(retriever=Retriever.run, path=str(run), negatives=1, dev_depth=2)
    run.write_text("a Q0 C 1 3 x\ne Q0 E 1 2 x\ne2 Q0 B 1 2 x\n")
    assert mine(whole, imported, tmp_path).dev.candidates == {"e": ["B"], "e2": ["B"]}
    repeated = "1 questions repeat another's text with a different ranking: the later ranking counts for both"
    assert repeated in caplog.text
    caplog.clear()
    run.write_text("a Q0 C 1 3 x\ne Q0 E 1 2 x\ne2 Q0 E 1 2 x\n")
    mine(whole, imported, tmp_path)
    assert "skipped" not in caplog.text and "different ranking" not in caplog.text


def test_own_id_wins_over_an_alias(tmp_path: Path) -> None:
    whole, run = split_with_ids(), tmp_path / "run.trec"
    whole.aliases = {"B": "E"}
    run.write_text("a Q0 C 1 3 x\ne Q0 B 1 2 x\n")
    mined = mine(whole, config(retriever=Retriever.run, path=str(run), negatives=1), tmp_path)
    assert mined.dev.candidates == {"e": ["B"]} and mined.dev.passages["B"] == CATS[1][1]


@pytest.mark.parametrize("clash", ["question", "passage"])
def test_run_with_ids_that_stand_for_two_texts_is_refused(tmp_path: Path, clash: str) -> None:
    train, dev = rows(CATS, question_ids=["a"] * len(CATS)), rows(DEV, question_ids=["b"] * len(DEV))
    train.question_ids = [f"t{i}" for i in range(len(CATS))]
    dev.question_ids = [f"{'t' if clash == 'question' else 'd'}{i}" for i in range(len(DEV))]
    given = split(train, dev)
    given.corpus_ids = [f"p{i}" for i in range(len(given.corpus))]
    given.renamed = ["p0"] if clash == "passage" else []
    run = tmp_path / "run.trec"
    run.write_text("t0 Q0 p0 1 1.0 x\nd0 Q0 p0 1 1.0 x\n")
    expected = "a question's id must stand for one question in all parts, got 't0' for '"
    if clash == "passage":
        expected = "must have one text each, got 'p0' with two"
    with pytest.raises(DataError, match=expected):
        mine(given, config(retriever=Retriever.run, path=str(run)), tmp_path)


@pytest.mark.parametrize("ranked", ["second id alone", "both"])
def test_training_question_is_ranked_under_any_of_its_ids(
    tmp_path: Path, ranked: str, caplog: pytest.LogCaptureFixture
) -> None:
    train = rows([*CATS, (CATS[0][0], CATS[1][1])], question_ids=["a", "b", "c", "d", "a2"])
    whole = split(train, rows(DEV, question_ids=["e"]))
    whole.corpus_ids = ["A", "B", "C", "D", "E"]
    run = tmp_path / "run.trec"
    lines = ["a2 Q0 C 1 3 x", "e Q0 E 1 2 x", "b Q0 C 1 2 x"] + (["a Q0 C 1 3 x"] if ranked == "both" else [])
    run.write_text("\n".join(lines) + "\n")
    mined = mine(whole, config(retriever=Retriever.run, path=str(run), negatives=1), tmp_path)
    assert (CATS[0][0], CATS[2][1], 0.0) in triples(mined.train)
    assert "are not used here" not in caplog.text
