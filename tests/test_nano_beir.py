"""NanoBEIR from a snapshot: the queries, positives and candidates of the reference evaluator, ordered by id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_fixtures import NANO_SETS, nano_beir

from pipeline.config.set_names import NANO_CANDIDATES
from pipeline.core.errors import DataError
from pipeline.core.records import AS_RETRIEVED, POSITIVES_ADDED
from pipeline.data.nano_beir import read
from pipeline.evaluation.reranking import collection_set, first_stage, pool_pairs


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return nano_beir(tmp_path / "nano")


def test_converted_files_are_written_to_the_given_cache_alone(snapshot: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.data.nano_beir import read\n"
        "read(Path(sys.argv[1]), 'NanoNQ', Path(sys.argv[2]))"
    )
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-c", code, str(snapshot), str(tmp_path / "cache")],
        env={**os.environ, "HF_HOME": str(home)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache" / "datasets").rglob("*.arrow"))
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_queries_positives_and_candidates_equal_the_reference(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderNanoBEIREvaluator

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "theirs"))
    names = ["msmarco", "nfcorpus", "nq"]
    reference = CrossEncoderNanoBEIREvaluator(dataset_names=names, dataset_id=str(snapshot), rerank_k=NANO_CANDIDATES)
    for name, evaluator in zip(NANO_SETS, reference.evaluators, strict=True):
        collection, candidates = read(snapshot, name, tmp_path / "cache")
        assert list(candidates) == list(collection.queries) == list(collection.qrels)
        assert [sample["query"] for sample in evaluator.samples] == list(collection.queries.values())
        for sample, (query, listed) in zip(evaluator.samples, candidates.items(), strict=True):
            assert [collection.passages[passage] for passage in listed] == sample["documents"]
            positives = [collection.passages[passage] for passage in collection.qrels[query]]
            assert sorted(positives) == sorted(sample["positive"])


def test_candidate_listed_twice_keeps_its_better_rank(snapshot: Path, tmp_path: Path) -> None:
    path = snapshot / "bm25" / "NanoNQ-00000-of-00001.parquet"
    table = pq.read_table(path)
    lists = table["corpus-ids"].to_pylist()
    lists[0] = ["d3", "d1", "d3", *[f"d{number}" for number in range(4, 129)]]
    pq.write_table(table.set_column(1, "corpus-ids", pa.array(lists)), path)
    collection, candidates = read(snapshot, "NanoNQ", tmp_path / "cache")
    listed = ["d3", "d1", *[f"d{number}" for number in range(4, 101)]]
    assert candidates["q0"] == listed, "its two places take one of the 100"
    reranking_set = collection_set(collection, candidates, "NanoNQ")
    assert first_stage(reranking_set)[AS_RETRIEVED]["q0"] == listed
    assert pool_pairs(reranking_set, POSITIVES_ADDED)[0]["q0"] == [*listed, "d0"]


def test_positives_are_ordered_by_id(snapshot: Path, tmp_path: Path) -> None:
    collection, candidates = read(snapshot, "NanoNFCorpus", tmp_path / "cache")
    assert collection.qrels["q1"] == {"d1": 1, "d129": 1, "d21": 1}
    assert list(collection.qrels["q1"]) == ["d1", "d129", "d21"]
    assert len(candidates["q1"]) == 100 and "d129" not in candidates["q1"]
    assert len(collection.passages) == 130


def test_missing_split_is_refused(snapshot: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NanoSciFact"):
        read(snapshot, "NanoSciFact", tmp_path / "cache")


def test_missing_column_is_refused(snapshot: Path, tmp_path: Path) -> None:
    for number, name in enumerate(NANO_SETS):
        path = snapshot / "queries" / f"{name}-00000-of-00001.parquet"
        pq.write_table(pq.read_table(path).rename_columns(["_id", "words"]), path)
        with pytest.raises(DataError, match="hold subset queries" if number < 2 else "have .'text'."):
            # Splits that disagree are datasets' error, a missing column ours.
            read(snapshot, "NanoNQ", tmp_path / "cache")


def test_error_of_datasets_without_a_message_is_named_by_its_type(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def fails(*_: object, **__: object) -> None:
        raise KeyError

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(DataError, match="hold subset corpus with split NanoNQ, got KeyError"):
        read(snapshot, "NanoNQ", tmp_path / "cache")


def test_id_of_no_passage_is_refused(snapshot: Path, tmp_path: Path) -> None:
    path = snapshot / "corpus" / "NanoNQ-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(DataError, match="known passages, got 'd0'"):
        read(snapshot, "NanoNQ", tmp_path / "cache")
