"""Measures by hand, against trec_eval's rules and sentence-transformers' evaluator."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

from pipeline.core.errors import NumericsError
from pipeline.core.records import MEASURES
from pipeline.data.trec import read_qrels, read_run
from pipeline.evaluation import measures
from pipeline.evaluation.measures import (
    judged,
    mean,
    order,
    per_query,
    reciprocal_rank_fusion,
)

LOG2 = [math.log2(rank + 1) for rank in range(1, 20)]

RUN = """
q1 Q0 a 1 9 t
q1 Q0 x 2 8 t
q1 Q0 b 3 7 t
q2 Q0 x 1 9 t
q2 Q0 y 2 8 t
q2 Q0 c 3 7 t
unjudged Q0 a 1 9 t
"""

QRELS = """
q1 0 a 1
q1 0 b 2
q1 0 x 0
q1 0 lost 1
q2 0 c 1
q2 0 x -1
q3 0 d 1
no-positive 0 a 0
"""


def test_measures_by_hand_with_grades_missing_positives_and_missing_queries(tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_text(RUN)
    (tmp_path / "qrels.trec").write_text(QRELS)
    run, qrels = read_run(tmp_path / "run.trec"), read_qrels(tmp_path / "qrels.trec")
    values = per_query({query: list(scores) for query, scores in run.items()}, qrels)
    assert list(values) == list(MEASURES)
    assert judged(qrels) == ["q1", "q2", "q3"]
    # q1: positives at ranks 1 and 3 of three judged, one of them never retrieved; linear gains 1 and 2.
    ndcg = (1 / LOG2[0] + 2 / LOG2[2]) / (2 / LOG2[0] + 1 / LOG2[1] + 1 / LOG2[2])
    assert values["map"] == pytest.approx({"q1": (1 / 1 + 2 / 3) / 3, "q2": 1 / 3, "q3": 0}, abs=1e-12)
    assert values["mrr@10"] == pytest.approx({"q1": 1, "q2": 1 / 3, "q3": 0}, abs=1e-12)
    assert values["ndcg@10"] == pytest.approx({"q1": ndcg, "q2": 1 / LOG2[2], "q3": 0}, abs=1e-12)


def test_the_cutoff_is_ten_for_mrr_and_ndcg_and_none_for_map() -> None:
    ranked = [f"x{rank}" for rank in range(10)]
    values = per_query({"at-10": [*ranked[:9], "a"], "at-11": [*ranked, "a"]}, {"at-10": {"a": 1}, "at-11": {"a": 1}})
    assert values["map"] == pytest.approx({"at-10": 1 / 10, "at-11": 1 / 11})
    assert values["mrr@10"] == pytest.approx({"at-10": 1 / 10, "at-11": 0})
    assert values["ndcg@10"] == pytest.approx({"at-10": 1 / math.log2(11), "at-11": 0})


def test_nothing_ranked_counts_zero_and_a_passage_twice_is_refused() -> None:
    assert per_query({}, {"q": {"a": 1}}) == {measure: {"q": 0.0} for measure in MEASURES}
    assert per_query({"q": []}, {"q": {"a": 1}}) == {measure: {"q": 0.0} for measure in MEASURES}
    with pytest.raises(ValueError, match="twice"):
        per_query({"q": ["a", "a"]}, {"q": {"a": 1}})


def test_ids_that_crash_the_library_are_measured() -> None:
    ids = ["a\0x", "a\0y", "\ud800", "", " ", "../../x"]
    values = per_query({"\0": ids, "\ud800": ids[::-1]}, {"\0": {"a\0y": 1}, "\ud800": {"a\0y": 1}})
    assert values["map"] == pytest.approx({"\0": 1 / 2, "\ud800": 1 / 5})


def test_the_order_is_score_descending_then_id_ascending() -> None:
    assert order(["b", "c", "a", "d"], [1.0, 2.0, 1.0, -0.0]) == ["c", "a", "b", "d"]
    assert order(["10", "9", "z"], np.array([0.0, -0.0, 1e-30], dtype=np.float32)) == ["z", "10", "9"]
    # Closer than a 32-bit float can tell and still apart: no tie is invented.
    assert order(["a", "b"], [1.0, 1.0 + 1e-12]) == ["b", "a"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(NumericsError, match=r"^the score of passage 'b' must be finite"):
        order(["a", "b"], [0.0, bad])


class FixedScores:
    """Stands where the evaluator expects a cross-encoder: looks (query, document) up."""

    class Card:
        """Takes the figures the evaluator hands to a model card, and drops them."""

        def set_evaluation_metrics(self, *_: object, **__: object) -> None:
            """Drop them."""

    def __init__(self, scores: dict[tuple[str, str], float]) -> None:
        self.scores = scores
        self.model_card_data = self.Card()

    def predict(self, pairs: list[list[str]], **_: object) -> np.ndarray:
        """Scores in the pairs' order."""
        return np.array([self.scores[query, document] for query, document in pairs])


def reference(
    rankings: dict[str, list[str]], qrels: dict[str, dict[str, int]], *, added: bool = False
) -> dict[str, float]:
    """What sentence-transformers' evaluator says of these rankings, tie-free."""
    scores = {(q, p): 1.0 - 0.01 * rank for q, ranking in rankings.items() for rank, p in enumerate(ranking)}
    samples = [
        {"query": q, "positive": [p for p, g in qrels[q].items() if g > 0], "documents": rankings[q]} for q in qrels
    ]
    evaluator = CrossEncoderRerankingEvaluator(samples, always_rerank_positives=added, name="", write_csv=False)
    return evaluator(FixedScores(scores))


def random_set(seed: int, *, positives: int, missing: bool) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    """60 queries with 30 ranked passages and positives at random ranks, some of them unranked when `missing`."""
    rng = np.random.default_rng(seed)
    rankings, qrels = {}, {}
    for number in range(60):
        ids = [f"p{passage}" for passage in rng.permutation(40)]
        rankings[f"q{number}"] = ids[:30]
        chosen = rng.choice(40 if missing else 30, size=positives, replace=False)
        qrels[f"q{number}"] = {ids[position]: 1 for position in chosen}
    return rankings, qrels


@pytest.mark.parametrize(("positives", "missing"), [(1, True), (1, False), (4, False), (12, False)])
def test_means_equal_sentence_transformers_where_one_positive_or_none_missing(positives: int, missing: bool) -> None:
    rankings, qrels = random_set(positives, positives=positives, missing=missing)
    expected = reference(rankings, qrels)
    values = per_query(rankings, qrels)
    if missing:
        assert any(not set(qrels[query]) & set(rankings[query]) for query in qrels)
    for measure in MEASURES:
        assert mean(values[measure]) == pytest.approx(expected[measure], abs=1e-9)
        assert mean(values[measure]) == pytest.approx(expected[f"base_{measure}"], abs=1e-9)


def test_several_positives_some_missing_is_where_the_definitions_part() -> None:
    """One query, two positives, one of them never retrieved, the other ranked second.

    Reported here (trec_eval): the lost positive counts in the denominator of AP and in the ideal of nDCG.
    sentence-transformers, as retrieved: the model is measured against the positives it was handed, AP 1/2 and an ideal
    of one; its first-stage figure appends the lost positive below the list instead, at rank 4.
    """
    rankings, qrels = {"q": ["x", "a", "y"]}, {"q": {"a": 1, "lost": 1}}
    ours = {measure: values["q"] for measure, values in per_query(rankings, qrels).items()}
    ideal = 1 / LOG2[0] + 1 / LOG2[1]
    assert ours == pytest.approx({"map": 1 / 4, "mrr@10": 1 / 2, "ndcg@10": 1 / LOG2[1] / ideal}, abs=1e-12)
    theirs = reference(rankings, qrels)
    assert {measure: theirs[measure] for measure in MEASURES} == pytest.approx(
        {"map": 1 / 2, "mrr@10": 1 / 2, "ndcg@10": 1 / LOG2[1]}, abs=1e-9
    )
    assert {measure: theirs[f"base_{measure}"] for measure in MEASURES} == pytest.approx(
        {"map": (1 / 2 + 2 / 4) / 2, "mrr@10": 1 / 2, "ndcg@10": (1 / LOG2[1] + 1 / LOG2[3]) / ideal}, abs=1e-9
    )


def test_the_same_bytes_under_any_hash_seed() -> None:
    program = """
import json, numpy as np
from pipeline.evaluation.differences import difference
from pipeline.evaluation.measures import *
rng = np.random.default_rng(3)
ids = [f"passage-{i}" for i in range(30)]
positives = {f"q{q}": {ids[i]: 1 for i in {int(x) for x in rng.integers(0, 30, 4)}} for q in range(30)}
tied = {q: order(ids, np.round(rng.normal(size=30))) for q in positives}
values = per_query(tied, positives)
other = per_query({q: ids for q in positives}, positives)
fused = reciprocal_rank_fusion([tied, {q: ids for q in positives}])
groups = {q: q[:2] for q in positives}
found = [difference(values[m], other[m], g, resamples=2000).as_json() for m in MEASURES for g in (None, groups)]
print(json.dumps([tied, values, fused, found]))
"""
    root = Path(__file__).resolve().parents[1]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            cwd=root,
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 10_000


def test_reciprocal_rank_fusion_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = reciprocal_rank_fusion([{"q": ["a", "b", "c"]}, {"q": ["c", "d"], "r": ["x"]}])
    # c: 1/63 + 1/61; a: 1/61; b and d both 1/62, by id.
    assert fused == {"q": ["c", "a", "b", "d"], "r": ["x"]}
    assert reciprocal_rank_fusion([{"q": ["a", "b"]}, {"q": ["b", "a"]}]) == {"q": ["a", "b"]}
    assert reciprocal_rank_fusion([{"q": ["a", "b"]}, {"q": ["x", "b"]}])["q"] == ["b", "a", "x"]
    monkeypatch.setattr(measures, "FUSION_K", 0)  # a small k lets one first place outweigh two later ones
    assert reciprocal_rank_fusion([{"q": ["a", "b"]}, {"q": ["x", "b"]}])["q"] == ["a", "b", "x"]
