"""The bi-encoder rival's scores are sentence-transformers' own cosines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hub_fixtures import sentences
from small_models import CPU
from static_model import static_model

from pipeline.config.learning import Precision
from pipeline.evaluation.bi_encoder import BiEncoderScorer
from pipeline.mining.embeddings import Embedder

PAIRS = sentences(12)


def test_a_score_is_the_cosine_of_query_and_passage(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = static_model(tmp_path / "model", sorted({word for pair in PAIRS for word in " ".join(pair).split()}))
    own = SentenceTransformer(str(folder), device="cpu")
    crossed = [*PAIRS, *((query, passage) for query, _ in PAIRS[:3] for _, passage in PAIRS[5:])]
    found = BiEncoderScorer(folder, tmp_path / "cache", device=CPU, precision=Precision.fp32).score(crossed)
    queries = own.encode_query([query for query, _ in crossed])
    passages = own.encode_document([passage for _, passage in crossed])
    expected = own.similarity_pairwise(queries, passages).numpy()
    assert found.dtype == np.float32 and np.ptp(found) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_each_text_is_embedded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded, vectors = list[tuple[str, int]](), Embedder.vectors

    def counting(self: Embedder, texts: list[str], side: str) -> object:
        embedded.append((side, len(texts)))
        return vectors(self, texts, side)

    monkeypatch.setattr(Embedder, "vectors", counting)
    folder = static_model(tmp_path / "model", ["a"])
    scorer = BiEncoderScorer(folder, tmp_path / "cache", device=CPU, precision=Precision.fp32)
    scorer.score([("q", "a"), ("q", "b"), ("p", "a"), ("q", "a")])
    assert embedded == [("query", 2), ("passage", 2)]


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp32])
def test_it_embeds_in_the_evaluations_precision(precision: Precision, tmp_path: Path) -> None:
    folder = static_model(tmp_path / "model", ["a"])
    scorer = BiEncoderScorer(folder, tmp_path / "cache", device=CPU, precision=precision)
    scorer.score([("a", "a")])
    made = [json.loads(path.read_text())["identity"]["dtype"] for path in tmp_path.rglob("manifest.json")]
    assert made == ["bfloat16 autocast" if precision is Precision.bf16 else "float32"] * 2
