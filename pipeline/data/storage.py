"""Mined sets on disk: Parquet and NumPy files in a folder. Knows records; knows nothing of how they are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import atomic
from pipeline.core.records import LabelledPairs, Mined, Qrels, RerankingSet

CHUNK = 8192
"""Number of texts read at once when streaming, so that memory does not grow with the rows."""


def _table(path: Path, columns: Mapping[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, compression="zstd", row_group_size=CHUNK)


def _columns(path: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return columns


def write_mined(folder: Path, mined: Mined) -> None:
    """Write train/, dev/, validation/ (if there is one) and statistics.json."""
    pairs = mined.train
    _table(folder / "train" / "questions.parquet", {"text": pairs.questions})
    _table(folder / "train" / "passages.parquet", {"text": pairs.passages})
    for name in ("question", "passage", "label"):
        np.save(folder / "train" / f"{name}.npy", getattr(pairs, name))
    write_set(folder / "dev", mined.dev)
    if mined.validation is not None:
        write_set(folder / "validation", mined.validation)
    atomic.write_json(folder / "statistics.json", mined.statistics)


def read_rows(folder: Path) -> LabelledPairs:
    """Read the training rows with their texts.

    Raises:
        OSError, ValueError, EOFError: if a file is missing or truncated; never in a verified folder.
    """
    train = folder / "train"
    return LabelledPairs(
        questions=_columns(train / "questions.parquet")["text"],
        passages=_columns(train / "passages.parquet")["text"],
        question=np.load(train / "question.npy"),
        passage=np.load(train / "passage.npy"),
        label=np.load(train / "label.npy"),
    )


def read_indices(folder: Path) -> LabelledPairs:
    """Memory-map the training rows without their texts, so that memory does not grow with the rows.

    Raises:
        OSError, ValueError, EOFError: if a file is missing or truncated; never in a verified folder.
    """
    arrays = {
        name: np.load(folder / "train" / f"{name}.npy", mmap_mode="r") for name in ("question", "passage", "label")
    }
    return LabelledPairs(questions=[], passages=[], **arrays)


def read_head(folder: Path, rows: int) -> LabelledPairs:
    """Read the first `rows` training rows and only the texts that they index: memory does not grow with the whole set.

    Raises:
        OSError, ValueError, EOFError: if a file is missing or truncated; never in a verified folder.
    """
    whole = read_indices(folder)
    questions, question = np.unique(whole.question[:rows], return_inverse=True)
    passages, passage = np.unique(whole.passage[:rows], return_inverse=True)
    return LabelledPairs(
        questions=_texts_at(folder / "train" / "questions.parquet", questions),
        passages=_texts_at(folder / "train" / "passages.parquet", passages),
        question=question.astype(np.int32),
        passage=passage.astype(np.int32),
        label=np.array(whole.label[:rows]),
    )


def _texts_at(path: Path, places: npt.NDArray[np.int32]) -> list[str]:
    """Return the texts at ascending row numbers of a table, reading only the row groups that hold them."""
    found: list[str] = []
    start = 0
    with pq.ParquetFile(path) as table:
        for group in range(table.num_row_groups):
            end = start + table.metadata.row_group(group).num_rows
            inside = places[(places >= start) & (places < end)] - start
            if len(inside):
                found += table.read_row_group(group).column(0).take(pa.array(inside)).to_pylist()
            start = end
    return found


def count_questions(folder: Path) -> int:
    """Return the number of distinct training questions, which is where the passages start in the token table."""
    return int(pq.read_metadata(folder / "train" / "questions.parquet").num_rows)


def count_texts(folder: Path) -> int:
    """Return the number of texts that `texts` yields: distinct training questions and passages."""
    return count_questions(folder) + int(pq.read_metadata(folder / "train" / "passages.parquet").num_rows)


def questions(folder: Path) -> Iterator[list[str]]:
    """Yield the training questions in chunks."""
    return _in_chunks(folder / "train" / "questions.parquet")


def texts(folder: Path) -> Iterator[list[str]]:
    """Yield the training texts in chunks: all questions, then all passages."""
    yield from questions(folder)
    yield from _in_chunks(folder / "train" / "passages.parquet")


def _in_chunks(path: Path) -> Iterator[list[str]]:
    for batch in pq.ParquetFile(path).iter_batches(batch_size=CHUNK):
        yield batch.column(0).to_pylist()


def write_set(folder: Path, reranking: RerankingSet) -> None:
    """Write a reranking set as four tables and set.json."""
    ids = list(reranking.queries)
    groups = reranking.groups
    columns: dict[str, list[Any]] = {"id": ids, "text": [reranking.queries[i] for i in ids]}
    if groups is not None:
        columns["group"] = [groups[i] for i in ids]
    _table(folder / "queries.parquet", columns)
    passages = list(reranking.passages)
    _table(folder / "passages.parquet", {"id": passages, "text": [reranking.passages[i] for i in passages]})
    found = [(query, passage) for query, ranked in reranking.candidates.items() for passage in ranked]
    _table(folder / "candidates.parquet", dict(zip(("query", "passage"), _transposed(found, 2), strict=True)))
    judged = [(q, p, grade) for q, grades in reranking.qrels.items() for p, grade in grades.items()]
    _table(folder / "qrels.parquet", dict(zip(("query", "passage", "relevance"), _transposed(judged, 3), strict=True)))
    atomic.write_json(folder / "set.json", {"name": reranking.name})


def _transposed(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[column] for row in rows] for column in range(width)]


def read_set(folder: Path) -> RerankingSet:
    """Read a reranking set written by `write_set`, in the same order.

    Raises:
        OSError, ValueError, ArtifactError: if a file is missing or truncated; never in a verified folder.
    """
    queries = _columns(folder / "queries.parquet")
    passages = _columns(folder / "passages.parquet")
    candidates: dict[str, list[str]] = {query: [] for query in queries["id"]}
    found = _columns(folder / "candidates.parquet")
    for query, passage in zip(found["query"], found["passage"], strict=True):
        candidates[query].append(passage)
    qrels: Qrels = {}
    for query, passage, relevance in zip(*_columns(folder / "qrels.parquet").values(), strict=True):
        qrels.setdefault(query, {})[passage] = relevance
    return RerankingSet(
        name=atomic.read_json(folder / "set.json")["name"],
        queries=dict(zip(queries["id"], queries["text"], strict=True)),
        passages=dict(zip(passages["id"], passages["text"], strict=True)),
        candidates=candidates,
        qrels=qrels,
        groups=dict(zip(queries["id"], queries["group"], strict=True)) if "group" in queries else None,
    )
