"""Both protocols from one scoring, ties, what a scorer sees, and sets made of collections."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.core.errors import DataError, NumericsError
from pipeline.core.records import AS_RETRIEVED, MEASURES, POSITIVES_ADDED, Collection, RerankingSet
from pipeline.data.beir import read_beir
from pipeline.evaluation.measures import per_query
from pipeline.evaluation.reranking import (
    collection_set,
    first_stage,
    fuse,
    mean_measures,
    pool_pairs,
    queries_among_passages,
    rerank,
    run_candidates,
)


class ByText:
    """Scores a passage by the number written in it, and remembers every pair it was asked about."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str]]] = []

    def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """The first word of each passage as a number."""
        self.calls.append(list(pairs))
        return np.array([float(passage.split()[0]) for _, passage in pairs], dtype=np.float32)


def small_set() -> RerankingSet:
    """q1 finds one of two positives; q2 finds none; q3 has no positive."""
    return RerankingSet(
        name="small",
        queries={"q1": "first", "q2": "second", "q3": "third"},
        passages={"a": "5 a", "b": "1 b", "c": "5 c", "lost": "9 lost", "z": "0 z"},
        candidates={"q1": ["b", "c", "a"], "q2": ["a"], "q3": ["a", "b"]},
        qrels={"q1": {"c": 1, "lost": 2, "b": 0}, "q2": {"z": 1}, "q3": {"a": 0}},
    )


def test_each_pair_is_scored_once_and_gives_both_protocols() -> None:
    scorer = ByText()
    rankings = rerank(small_set(), scorer)
    assert scorer.calls == [
        [
            ("first", "1 b"),
            ("first", "5 c"),
            ("first", "5 a"),
            ("first", "9 lost"),
            ("second", "5 a"),
            ("second", "0 z"),
        ]
    ]
    assert rankings == {
        AS_RETRIEVED: {"q1": ["a", "c", "b"], "q2": ["a"]},  # a before c: the tie goes by id
        POSITIVES_ADDED: {"q1": ["lost", "a", "c", "b"], "q2": ["a", "z"]},
    }


def test_the_first_stage_keeps_its_figure_under_both_protocols() -> None:
    rankings = first_stage(small_set())
    assert rankings[AS_RETRIEVED]["q1"] == ["b", "c", "a"]
    assert rankings[POSITIVES_ADDED] == rankings[AS_RETRIEVED]


def test_quick_scores_only_what_its_protocol_needs() -> None:
    scorer = ByText()
    # q1: positive c at rank 2 of 3, one of two judged positives; q2: nothing found.
    assert mean_measures(small_set(), scorer)["map"] == pytest.approx((1 / 2 / 2 + 0) / 2)
    assert mean_measures(small_set(), scorer)["mrr@10"] == pytest.approx((1 / 2 + 0) / 2)
    added = mean_measures(small_set(), scorer, POSITIVES_ADDED)
    assert added["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert [len(call) for call in scorer.calls] == [4, 4, 6]
    assert list(added) == list(MEASURES)


def test_the_pairs_are_the_same_each_time_and_skip_queries_without_a_positive() -> None:
    pools, pairs = pool_pairs(small_set(), AS_RETRIEVED)
    assert pools == {"q1": ["b", "c", "a"], "q2": ["a"]}
    assert pairs == pool_pairs(small_set(), AS_RETRIEVED)[1]


def test_a_scorer_that_fails_is_refused() -> None:
    class Bad:
        def __init__(self, *values: float) -> None:
            self.values = np.array(values, dtype=np.float32)

        def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
            return self.values

    with pytest.raises(NumericsError, match=r"^every score on small must be finite, got 1 that are not"):
        rerank(small_set(), Bad(1, 2, np.nan, 4, 5, 6))
    with pytest.raises(ValueError, match="shape"):
        rerank(small_set(), Bad(1, 2))


def test_fusion_is_done_protocol_by_protocol() -> None:
    reranked = rerank(small_set(), ByText())
    fused = fuse(first_stage(small_set()), reranked)
    # b c a with a c b: b and a tie at 1/61 + 1/63, above c at 2/62 by convexity.
    assert fused[AS_RETRIEVED]["q1"] == ["a", "b", "c"]
    assert fused[POSITIVES_ADDED]["q1"] == ["b", "a", "c", "lost"]
    assert fused[POSITIVES_ADDED]["q2"] == ["a", "z"]


def test_a_set_of_a_collection_keeps_what_counts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    collection = Collection(
        name="c",
        queries={"q1": "one", "q2": "two", "q3": "three"},
        passages={name: name.upper() for name in "abcdef"},
        qrels={"q1": {"a": 1, "f": 0}, "q2": {"b": 2}, "gone": {"a": 1}},
    )
    run = {"q1": {"c": 1.0, "d": 2.0, "e": 1.0}, "q3": {"f": 1.0}}
    made = collection_set(collection, run_candidates(run, depth=2), "mine")
    assert made == RerankingSet(
        name="mine",
        queries={"q1": "one", "q2": "two"},
        passages={"d": "D", "c": "C", "a": "A", "b": "B"},
        candidates={"q1": ["d", "c"], "q2": []},
        qrels={"q1": {"a": 1, "f": 0}, "q2": {"b": 2}},
    )
    assert "2 of 3 queries have a positive" in caplog.text
    with pytest.raises(DataError, match=r"^collection mine must hold each candidate, got 1 unknown ones, first"):
        collection_set(collection, {"q1": ["x"]}, "mine")
    with pytest.raises(DataError, match="judge a passage relevant"):
        collection_set(Collection("c", collection.queries, {"a": "A"}, {"q1": {"a": 0}}), {}, "mine")


def test_positives_that_the_collection_lacks_count_as_not_found(caplog: pytest.LogCaptureFixture) -> None:
    collection = Collection("c", {"q1": "one"}, {"a": "A", "b": "B"}, {"q1": {"a": 1, "lost": 1}})
    made = collection_set(collection, {"q1": ["b", "a"]}, "mine")
    assert "mine: 1 of 2 relevant passages are missing from the collection and count as not found" in caplog.text
    assert made.passages == {"b": "B", "a": "A"} and made.pool("q1", POSITIVES_ADDED) == ["b", "a"]
    found = per_query({"q1": ["a", "b"]}, made.qrels)
    ideal = 1 + 1 / math.log2(3)
    assert found["map"] == {"q1": 0.5} and found["ndcg@10"] == pytest.approx({"q1": 1 / ideal})


def test_a_public_collection_becomes_a_set(shared_data: Path) -> None:
    folder = shared_data / "collections" / "nfcorpus-stopped"
    if not folder.is_dir():
        pytest.skip(f"the shared data lacks the collection {folder.name}")
    collection = read_beir(folder)
    # Its judged passages, best grade first: a ranking without flaw.
    run = {q: {p: float(g) for p, g in grades.items() if g > 0} for q, grades in collection.qrels.items()}
    made = collection_set(collection, run_candidates(run, 1000), "nfcorpus")

    pools, expected = pool_pairs(made, AS_RETRIEVED)

    class Oracle:
        def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
            assert list(pairs) == expected
            return np.array([made.qrels[q][p] for q, pool in pools.items() for p in pool], dtype=np.float32)

    assert len(expected) == 12334
    assert mean_measures(made, Oracle()) == pytest.approx(dict.fromkeys(MEASURES, 1.0), abs=1e-12)


def test_a_query_that_is_a_passage_is_no_candidate_of_its_own() -> None:
    collection = Collection(
        "c",
        queries={"1": "Cats  purr", "2": "dogs bark", "3": "birds sing", "4": "fish swim", "6": "eat"},
        passages={"1": "Title cats purr", "2": "something else", "3": "birds sing", "5": "other", "6": "cats eat fish"},
        qrels={"1": {"5": 1}, "2": {"5": 1}, "3": {"3": 1}},
    )
    # 2 and 6 have a passage's id by chance, 3 is judged relevant to itself, 4 is no passage.
    assert queries_among_passages(collection) == {"1"}
    run = {"1": {"1": 9.0, "5": 1.0, "2": 2.0}, "2": {"2": 3.0, "1": 4.0}}
    candidates = run_candidates(run, 2, queries_among_passages(collection))
    assert candidates == {"1": ["2", "5"], "2": ["1", "2"]}
