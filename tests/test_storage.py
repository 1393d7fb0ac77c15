"""Mined sets on disk: what is read is what was written, in the same order, whatever the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.records import LabelledPairs, Mined, RerankingSet
from pipeline.data import storage

TEXTS = ["plain", "", "tab\tand\nnew line", "\u2028 line separator", "漢字 🙂", "nul \x00 inside", "x" * 70_000]


def pairs() -> LabelledPairs:
    return LabelledPairs(
        questions=TEXTS[:3], passages=TEXTS,
        question=np.array([0, 0, 1, 2], np.int32), passage=np.array([0, 6, 3, 1], np.int32),
        label=np.array([1, 0, 0.25, 1], np.float32),
    )  # fmt: skip


def reranking_set(groups: dict[str, str] | None) -> RerankingSet:
    return RerankingSet(
        name="gooaq-dev", queries={"q2": TEXTS[2], "q1": TEXTS[4], "q3": "found nothing"},
        passages={"p9": TEXTS[5], "p1": TEXTS[1], "p5": TEXTS[0]},
        candidates={"q2": ["p9", "p1"], "q1": ["p5"], "q3": []},
        scores={"q2": [1 / 3, -0.0], "q1": [1e-300], "q3": []},
        qrels={"q2": {"p9": 2, "p1": 0}, "q1": {"p5": 1}}, groups=groups,
    )  # fmt: skip


@pytest.mark.parametrize("groups", [None, {"q2": "m", "q1": "n", "q3": "m"}], ids=["independent", "grouped"])
def test_a_set_comes_back_as_it_was(tmp_path: Path, groups: dict[str, str] | None) -> None:
    written = reranking_set(groups)
    storage.write_set(tmp_path, written)
    read = storage.read_set(tmp_path)
    assert read == written
    for name in ("queries", "passages", "candidates", "scores", "qrels"):
        assert list(getattr(read, name)) == list(getattr(written, name)), f"the order of {name}"


def test_a_set_with_no_candidates_at_all_comes_back(tmp_path: Path) -> None:
    written = RerankingSet("empty", {"q": "?"}, {"p": "text"}, {"q": []}, {"q": []}, {"q": {"p": 1}})
    storage.write_set(tmp_path, written)
    assert storage.read_set(tmp_path) == written


@pytest.mark.parametrize("validation", [False, True])
def test_mined_rows_come_back_with_and_without_their_texts(tmp_path: Path, validation: bool) -> None:
    mined = Mined(pairs(), reranking_set(None), reranking_set(None) if validation else None, {"rows": 4})
    storage.write_mined(tmp_path, mined)
    rows, indices = storage.read_rows(tmp_path), storage.read_indices(tmp_path)
    assert (rows.questions, rows.passages) == (mined.train.questions, mined.train.passages)
    assert (indices.questions, indices.passages) == ([], [])
    for name in ("question", "passage", "label"):
        expected = getattr(mined.train, name)
        for read in (rows, indices):
            assert getattr(read, name).dtype == expected.dtype
            assert getattr(read, name).tolist() == expected.tolist()
    assert isinstance(indices.label, np.memmap)
    assert (tmp_path / "validation").is_dir() is validation


def test_texts_stream_in_chunks_questions_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "CHUNK", 2)
    storage.write_mined(tmp_path, Mined(pairs(), reranking_set(None), None, {}))
    chunks = list(storage.texts(tmp_path))
    assert [text for chunk in chunks for text in chunk] == TEXTS[:3] + TEXTS
    assert max(len(chunk) for chunk in chunks) == 2
    assert storage.count_questions(tmp_path) == 3
