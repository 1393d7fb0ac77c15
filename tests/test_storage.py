"""Mined sets on disk: what is read is what was written, in the same order, whatever the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
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
        qrels={"q2": {"p9": 2, "p1": 0}, "q1": {"p5": 1}}, groups=groups,
    )  # fmt: skip


@pytest.mark.parametrize("groups", [None, {"q2": "m", "q1": "n", "q3": "m"}], ids=["independent", "grouped"])
def test_a_set_comes_back_as_it_was(tmp_path: Path, groups: dict[str, str] | None) -> None:
    written = reranking_set(groups)
    storage.write_set(tmp_path, written)
    read = storage.read_set(tmp_path)
    assert read == written
    for name in ("queries", "passages", "candidates", "qrels"):
        assert list(getattr(read, name)) == list(getattr(written, name)), f"the order of {name}"


def test_a_set_with_no_candidates_at_all_comes_back(tmp_path: Path) -> None:
    written = RerankingSet("empty", {"q": "?"}, {"p": "text"}, {"q": []}, {"q": {"p": 1}})
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
    assert (storage.count_questions(tmp_path), storage.count_texts(tmp_path)) == (3, 3 + len(TEXTS))


@pytest.mark.parametrize("rows", [0, 1, 3, 99])
def test_the_first_rows_come_with_their_own_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(storage, "CHUNK", 2)
    whole = pairs()
    storage.write_mined(tmp_path, Mined(whole, reranking_set(None), None, {}))
    head = storage.read_head(tmp_path, rows)
    assert head.label.tolist() == whole.label[:rows].tolist() and head.label.dtype == np.float32
    assert [head.questions[i] for i in head.question] == [whole.questions[i] for i in whole.question[:rows]]
    assert [head.passages[i] for i in head.passage] == [whole.passages[i] for i in whole.passage[:rows]]
    assert head.question.dtype == head.passage.dtype == np.int32
    assert len(head.passages) == len(set(whole.passage[:rows].tolist()))


def test_the_first_rows_are_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the passages' table only what the first rows need can be read."""
    monkeypatch.setattr(storage, "CHUNK", 2)
    count = 8
    whole = LabelledPairs(
        questions=[f"question {i}" for i in range(count)], passages=[f"passage {i}" for i in range(count)],
        question=np.arange(count, dtype=np.int32), passage=np.arange(count, dtype=np.int32)[::-1].copy(),
        label=np.ones(count, np.float32),
    )  # fmt: skip
    storage.write_mined(tmp_path, Mined(whole, reranking_set(None), None, {}))
    path = tmp_path / "train" / "passages.parquet"
    last = pq.read_metadata(path).row_group(3).column(0)
    start = last.dictionary_page_offset or last.data_page_offset
    path.write_bytes(b"PAR1" + bytes(start - 4) + path.read_bytes()[start:])  # the groups before it are gone
    with pytest.raises(OSError):
        storage.read_rows(tmp_path)
    assert storage.read_head(tmp_path, 2).passages == ["passage 6", "passage 7"]
