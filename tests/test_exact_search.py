"""Both kinds of block search, in fp32 and with bf16 rounding, against a full sort in exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.mining import exact_search
from pipeline.mining.exact_search import Block, Plain, Rounded, prepared, products
from pipeline.mining.topk import RunningTop

KINDS = [Plain, Rounded]


def ranked(block: Block, queries: np.ndarray, depth: int) -> tuple[list[list[int]], list[list[float]]]:
    top = RunningTop(len(queries), depth)
    top.add(*block.best(queries, depth), 0)
    found = top.ranking()
    return found.indices.tolist(), found.scores.tolist()


def candidates(corpus: np.ndarray, queries: np.ndarray, depth: int) -> torch.Tensor:
    rough, floor = Rounded(corpus)._rough_scores(queries, depth, torch.empty(len(queries), len(corpus)).bfloat16())
    return rough >= floor


def full_sort(scores: np.ndarray, depth: int) -> tuple[list[list[int]], list[list[float]]]:
    missing = depth - min(depth, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    values = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    return [[*row, *[-1] * missing] for row in order.tolist()], [
        [*row, *[-np.inf] * missing] for row in values.tolist()
    ]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(1, 40), passages=st.integers(1, 300), depth=st.integers(1, 30),
    largest=st.sampled_from([1, 300, 2000]), spread=st.sampled_from([1, 5, 300, 2000]), seed=st.integers(0, 99),
)  # fmt: skip
def test_best_passages_equal_those_of_a_full_sort(
    kind: type[Plain] | type[Rounded], queries: int, passages: int, depth: int, largest: int, spread: int, seed: int
) -> None:
    # Whole numbers: exact in fp32 (4 * 2000² < 2²⁴), not in bf16 beyond 256; a small spread makes ties and near ties.
    draw = np.random.default_rng(seed)
    base = draw.integers(-largest, largest + 1, 4)
    corpus = np.clip(base + draw.integers(-spread, spread + 1, (passages, 4)), -2000, 2000)
    query_vectors = np.clip(base + draw.integers(-spread, spread + 1, (queries, 4)), -2000, 2000)
    query_vectors *= draw.choice([-1, 1], 4)  # sums that cancel keep the error of what was rounded before
    found = ranked(kind(corpus.astype(np.float32)), query_vectors.astype(np.float32), depth)
    assert found == full_sort(query_vectors @ corpus.T, depth)


@pytest.mark.parametrize("largest", [260, 300, 600, 2000])
def test_rounding_loses_no_passage_of_many_queries(largest: int) -> None:
    draw = np.random.default_rng(largest)
    corpus, query_vectors = (draw.integers(-largest, largest + 1, (rows, 4)) for rows in (400, 8_000))
    found = Rounded(corpus.astype(np.float32)).best(query_vectors.astype(np.float32), 10)
    expected = np.array(full_sort(query_vectors @ corpus.T, 10)[0])
    np.testing.assert_array_equal(np.sort(found[1], axis=1), np.sort(expected, axis=1))


ALMOST_LOST = {
    # Rounding the query moves one up and the other down: each by almost the bound, both by over 1.6 times as much.
    "query": ([1 + 2**-9, 64.0, 1.0], [-200.0, 3.125, 0.75], [200.0, -3.125, 0.0]),
    # The same for the passages.
    "passages": ([200.0, -200.0, 1.0], [1 + 3 * 2**-9, 1.0, 0.0], [1 + 2**-9, 1.0, 0.8125]),
    # 257.0078 becomes 258 and 257 becomes 256, but the second is ahead by the query's 2^-14, which is lost too.
    "sum": ([1.0, 2**-4 * (1 + 2**-10)], [256.0, 16.125], [245.0, 192.0]),
}
"""Query, the passage that bf16 ranks first, and the one that is first in fp32."""


@pytest.mark.parametrize("case", ALMOST_LOST)
@pytest.mark.parametrize("rows", [exact_search.ROWS, 2])
def test_bound_on_rounding_needs_each_of_its_parts(case: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_search, "ROWS", rows)
    query, *passages = (np.array([values], np.float32) for values in ALMOST_LOST[case])
    nothing = np.zeros((2, query.shape[1]), np.float32)
    corpus = np.concatenate([nothing, *passages, *(-one for one in passages), nothing])
    assert not corpus.mean(axis=0).any(), "the search subtracts the mean, which must leave these vectors as written"
    assert ranked(Rounded(corpus), query, 1)[0] == full_sort(query @ corpus.T, 1)[0] == [[3]]


def test_passage_within_fp32_summation_error_is_a_candidate() -> None:
    # 4096 * 4096 + 3 - 4096 * 4096 may come out as anything from 0 to 4.
    large = [4096.0, 1.0, 1.0, 1.0, 1.0, -4096.0]
    corpus = np.array([large, [0, 0, 0, 0, 3, 0], [-x for x in large], [0, 0, 0, 0, -3, 0]], np.float32)
    found = candidates(corpus, np.array([[4096, 1, 1, 1, 1, 4096]], np.float32), 1)
    assert found[0, :2].all()


@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_exact_scores_are_computed_for_under_three_times_depth(shared: float) -> None:
    """Also for similar passages, with cosines of 0.8 to each other."""
    draw = np.random.default_rng(3)
    corpus = draw.standard_normal((5_000, 384), np.float32) + shared * draw.standard_normal(384, np.float32)
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    counts = candidates(corpus, corpus[:20], 50).sum(1)
    assert counts.min() >= 50 and counts.sum() < 20 * 3 * 50


@pytest.mark.parametrize("kind", KINDS)
def test_zero_query_and_identical_passages(kind: type[Plain] | type[Rounded]) -> None:
    same = np.full((3_000, 16), 0.25, np.float32)
    query_vectors = np.concatenate([np.zeros((1, 16), np.float32), same[:1]])
    assert ranked(kind(same), query_vectors, 5) == ([[0, 1, 2, 3, 4]] * 2, [[0.0] * 5, [1.0] * 5])


def test_scores_that_bf16_cannot_separate_are_ranked_exactly() -> None:
    draw = np.random.default_rng(0)
    corpus = draw.standard_normal(64) + 1e-4 * draw.standard_normal((3_000, 64))
    corpus = (corpus / np.linalg.norm(corpus, axis=1, keepdims=True)).astype(np.float32)
    query_vectors = corpus[::100] + np.float32(0.01) * draw.standard_normal((30, 64), dtype=np.float32)
    exact = query_vectors.astype(np.float64) @ corpus.T.astype(np.float64)
    indices, scores = ranked(Rounded(corpus), query_vectors, 10)
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :10], rtol=0, atol=5e-7)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, np.array(indices), axis=1), rtol=0, atol=5e-7)
    rough = np.take_along_axis(exact, (-(query_vectors @ corpus.T)).argsort(axis=1)[:, 400:401], axis=1)
    assert (np.array(scores)[:, :1] - rough < 2**-9).all(), "hundreds of passages must be one score in bf16"


@pytest.mark.parametrize("kind", KINDS)
def test_result_does_not_depend_on_tile_size(
    kind: type[Plain] | type[Rounded], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(1)
    corpus = draw.integers(-2000, 2001, (200, 4)).astype(np.float32)
    query_vectors = draw.integers(-2000, 2001, (50, 4)).astype(np.float32)
    whole = ranked(kind(corpus), query_vectors, 12)
    small = {"ROUGH_CELLS": 1_500, "CANDIDATES": 500, "TIED_CELLS": 400, "ROWS": 70}
    for name, value in small.items():
        monkeypatch.setattr(exact_search, name, value)
    assert ranked(kind(corpus), query_vectors, 12) == whole


def test_candidates_are_scored_in_bounded_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, exact = list[int](), Rounded._exact

    def seen(self: Rounded, queries: np.ndarray, candidates: torch.Tensor, depth: int) -> exact_search.Best:
        sizes.append(candidates.numel())
        return exact(self, queries, candidates, depth)

    monkeypatch.setattr(exact_search, "CANDIDATES", 500)
    monkeypatch.setattr(Rounded, "_exact", seen)
    Rounded(np.ones((120, 8), np.float32)).best(np.ones((10, 8), np.float32), 3)
    assert sizes == [480, 480, 240]


@pytest.mark.parametrize("dimension", [1, 255, 1023, 1024])
def test_score_of_a_pair_does_not_depend_on_its_position(dimension: int) -> None:
    draw = np.random.default_rng(2)
    left, right = draw.standard_normal((2, 1, dimension), dtype=np.float32)
    corpus = draw.standard_normal((999, dimension), dtype=np.float32)
    same = [0, 7, 33, 500, 998]
    corpus[same] = right
    places = draw.integers(0, 999, 100)
    places[[1, 6, 50, 51, 99]] = same
    scores = products(left.repeat(3, axis=0), np.arange(100) % 3, corpus, places)
    alone = products(left, np.array([0]), right, np.array([0]))
    assert set(scores[[1, 6, 50, 51, 99]].tolist()) == set(alone.tolist())
    np.testing.assert_allclose(scores, corpus[places].astype(np.float64) @ left[0].astype(np.float64), atol=1e-4)


@pytest.mark.parametrize(("unit", "kind"), [("AMX", Rounded), ("AVX512_BF16", Rounded), (None, Plain)])
def test_bf16_is_used_only_with_bf16_cpu_instructions(
    monkeypatch: pytest.MonkeyPatch, unit: str | None, kind: type[Plain] | type[Rounded]
) -> None:
    monkeypatch.setattr(exact_search, "bf16_unit", lambda: unit)
    assert type(prepared(np.ones((2, 3), np.float32))) is kind
