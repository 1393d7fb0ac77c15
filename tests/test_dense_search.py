"""Dense search finds what a product of all vectors gives, in blocks of any size and in bounded memory."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from static_model import static_model

from pipeline.mining import dense_search
from pipeline.mining.dense_search import Nearest
from pipeline.mining.embeddings import Embedder
from pipeline.mining.exact_search import Plain, Rounded

WORDS = [f"w{number}" for number in range(50)]
TEXTS = [f"w{a} w{b}" for a in range(12) for b in range(12, 24)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return static_model(tmp_path_factory.mktemp("static") / "model", WORDS)


@pytest.mark.parametrize("search", [Plain, Rounded])
def test_search_equals_all_cosines_whatever_the_block_size(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: type[Plain] | type[Rounded]
) -> None:
    monkeypatch.setattr(dense_search, "prepared", search)
    monkeypatch.setattr(dense_search, "QUERY_BLOCK", 7)
    monkeypatch.setattr(dense_search, "PASSAGE_BLOCK_BYTES", 64 * 4 * 32)  # 64 passages
    monkeypatch.setattr(dense_search, "CHUNK", 10)
    embedder = Embedder(model, tmp_path)
    queries = TEXTS[5:60]
    subset = np.array([n for n in range(len(TEXTS)) if n % 3])
    passages = embedder.vectors(TEXTS, "passage").take(slice(None))
    np.testing.assert_allclose(np.linalg.norm(passages, axis=1), 1, atol=1e-6)
    cosines = embedder.vectors(queries, "query").take(slice(None)) @ passages[subset].T
    found = Nearest(embedder, TEXTS, subset).search(queries, 100)
    np.testing.assert_allclose(np.sort(cosines, axis=1)[:, ::-1], found.scores[:, : len(subset)], atol=1e-6)
    assert (found.indices[:, len(subset) :] == -1).all()
    rows = np.arange(len(queries))
    np.testing.assert_allclose(cosines[rows, found.indices[:, 0]], found.scores[:, 0], atol=1e-6)
    query, passage = np.array([0, 3, 54]), np.array([1, 1, 90])
    scores = Nearest(embedder, TEXTS, subset).score(queries, query, passage)
    np.testing.assert_allclose(scores, cosines[query, passage], atol=1e-6)


@pytest.mark.parametrize("search", [Plain, Rounded])
def test_equal_passages_are_ranked_in_corpus_order(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: type[Plain] | type[Rounded]
) -> None:
    monkeypatch.setattr(dense_search, "prepared", search)
    found = Nearest(Embedder(model, tmp_path), ["w1", "w2", "W1", "w1  "]).search(["w1"], 3)
    assert found.indices.tolist() == [[0, 2, 3]]


SEARCH = """
import resource, sys
from pathlib import Path
from pipeline.mining.dense_search import Nearest
from pipeline.mining.embeddings import Embedder
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
embedder = Embedder(Path(sys.argv[1]), Path(sys.argv[2]))
searcher = Nearest(embedder, many(40_000))
searcher.search(many(64), 10)
before = peak()
searcher.search(many(8_000), 10)
print(peak() - before)
"""


def many(count: int) -> list[str]:
    return [f"w{n % 50} w{n // 50 % 50} w{n // 2500 % 50}" for n in range(count)]


def test_memory_does_not_grow_with_queries_times_passages(model: Path, tmp_path: Path) -> None:
    embedder = Embedder(model, tmp_path)
    for count, side in ((40_000, "passage"), (64, "query"), (8_000, "query")):
        embedder.vectors(many(count), side)
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", inspect.getsource(many) + SEARCH, str(model), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=root)
    # All scores at once would be 8,000 x 40,000 x 4 bytes = 1,221 MiB.
    assert float(result.stdout.splitlines()[-1]) < 150
