"""Measures of rankings. Pure: rankings and judgements in, numbers out; no files, no torch.

MAP, MRR@10 and nDCG@10 are computed per query by the `ir_measures` library, as trec_eval defines them. The denominator
of AP and the ideal of nDCG count every judged positive, found or not. nDCG's gain is **linear** (the grade itself, not
2**grade - 1) over log2(rank + 1), as in trec_eval and scikit-learn; grades below 1 gain nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
import numpy.typing as npt

from pipeline.core.errors import NumericsError, must
from pipeline.core.records import MEASURES, Qrels

_NAMES = {ir_measures.AP: "map", ir_measures.RR @ 10: "mrr@10", ir_measures.nDCG @ 10: "ndcg@10"}
"""The library's measure → its name in `records.MEASURES`."""

FUSION_K = 60
"""The constant k of reciprocal rank fusion, from Cormack et al. (2009)."""


def order(ids: Sequence[str], scores: Sequence[float] | npt.NDArray[np.floating]) -> list[str]:
    """Sort ids by score descending, ties by id ascending: the one place where a ranking is decided.

    Raises:
        NumericsError: when a score is NaN or infinite.
        ValueError: when the two lengths differ.
    """
    values = [float(score) for score in scores]
    for identifier, value in zip(ids, values, strict=True):
        if not math.isfinite(value):
            remedy = "The model diverged or its weights are damaged: train again with a smaller learning rate, or fp32."
            raise NumericsError(must(f"the score of passage {identifier!r}", "be finite", value, remedy))
    return [identifier for _, identifier in sorted(zip((-value for value in values), ids, strict=True))]


def judged(qrels: Qrels) -> list[str]:
    """Return the queries that count: those with at least one positive, in the order of the judgements."""
    return [query for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())]


def per_query(ranking: Mapping[str, Sequence[str]], qrels: Qrels) -> dict[str, dict[str, float]]:
    """Return measure → query id → value in [0, 1], over `judged(qrels)` in that order.

    A judged query that the ranking lacks counts 0. Queries without a positive have no defined value and are left out,
    even if they are ranked. The library gets scores that only encode the rank, because its providers break ties in
    opposite directions. It gets numbers as ids, because one provider is C code that crashes on ids with a null
    character or a lone surrogate.

    Raises:
        ValueError: when a query's ranking names a passage twice.
    """
    queries = judged(qrels)
    numbered_qrels: Qrels = {}
    numbered_run: dict[str, dict[str, float]] = {}
    for number, query in enumerate(queries):
        ranked = ranking.get(query, ())
        ranks = {passage: rank for rank, passage in enumerate(ranked)}
        if len(ranks) != len(ranked):
            raise ValueError(f"the ranking of query {query!r} names a passage twice")
        positives = [(passage, grade) for passage, grade in qrels[query].items() if grade > 0]
        numbered_qrels[str(number)] = {
            str(ranks.get(passage, f"missing-{position}")): grade for position, (passage, grade) in enumerate(positives)
        }
        if ranked:
            numbered_run[str(number)] = {str(rank): float(len(ranked) - rank) for rank in range(len(ranked))}
    values = {measure: dict.fromkeys(queries, 0.0) for measure in MEASURES}
    if numbered_run:
        for metric in ir_measures.iter_calc(list(_NAMES), numbered_qrels, numbered_run):
            values[_NAMES[metric.measure]][queries[int(metric.query_id)]] = float(metric.value)
    return values


def mean(values: Mapping[str, float]) -> float:
    """Return the mean over queries, summed exactly so that their order does not change a bit; 0 for no query."""
    return math.fsum(values.values()) / len(values) if values else 0.0


def reciprocal_rank_fusion(rankings: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Fuse rankings by the sum of 1 / (k + rank), where ranks count from 1 and k is `FUSION_K`.

    A ranking adds nothing to a passage that it lacks. Sums are exact (`fsum`), so the order of the rankings does not
    matter; ties are broken by id ascending. Queries are in order of first appearance.
    """
    fused: dict[str, list[str]] = {}
    for query in dict.fromkeys(query for ranking in rankings for query in ranking):
        parts: dict[str, list[float]] = {}
        for ranking in rankings:
            for rank, passage in enumerate(ranking.get(query, ()), start=1):
                parts.setdefault(passage, []).append(1 / (FUSION_K + rank))
        fused[query] = order(list(parts), [math.fsum(part) for part in parts.values()])
    return fused
