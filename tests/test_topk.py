"""The top of a ranking, found block by block, equals that of a full sort."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.mining.topk import Ranking, RunningTop, best_columns, stacked


def full_sort(scores: np.ndarray, depth: int) -> tuple[list[list[int]], list[list[float]]]:
    """Return indices and scores by descending score, ties by ascending index."""
    indices, values = [], []
    for row in scores:
        order = np.argsort(-row, kind="stable")[:depth]
        indices.append([int(index) for index in order] + [-1] * (depth - len(order)))
        values.append([float(row[index]) for index in order] + [-math.inf] * (depth - len(order)))
    return indices, values


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 700),
    depth=st.integers(1, 40),
    block=st.sampled_from([1, 63, 64, 128, 500]),
    levels=st.sampled_from([1, 2, 5, 10_000]),
    seed=st.integers(0, 99),
)
def test_running_top_equals_a_full_sort_whatever_the_blocks(
    rows: int, columns: int, depth: int, block: int, levels: int, seed: int
) -> None:
    # Few levels make many ties, also at the last rank and across blocks.
    scores = np.random.default_rng(seed).integers(-levels, levels, (rows, columns)).astype(np.float32)
    top = RunningTop(rows, depth)
    for start in range(0, columns, block):
        part = torch.from_numpy(scores[:, start : start + block].copy())
        top.add(*best_columns(part, depth), start)
    found = top.ranking()
    assert (found.indices.tolist(), found.scores.tolist()) == full_sort(scores, depth)


def test_score_of_minus_infinity_is_not_found() -> None:
    top = RunningTop(1, 3)
    top.add(*best_columns(torch.tensor([[-math.inf, 1.0, -math.inf, 2.0]]), 3), 10)
    assert top.ranking().indices.tolist() == [[13, 11, -1]]


def test_stacked_rankings_keep_their_order() -> None:
    one = Ranking(np.array([[1, 2]], np.int32), np.array([[2, 1]], np.float32))
    assert stacked([one, one], 2).indices.tolist() == [[1, 2], [1, 2]]
    assert len(stacked([], 2)) == 0
    assert stacked([], 2).scores.shape == (0, 2)


@pytest.mark.parametrize("columns", [10, 200])
def test_ranking_without_results_is_padded(columns: int) -> None:
    top = RunningTop(2, 4)
    top.add(*best_columns(torch.full((2, columns), -math.inf), 4), 0)
    assert top.ranking().indices.tolist() == [[-1] * 4] * 2
