"""Reranking of a set's candidates by a scorer, under both protocols from one scoring.

Knows nothing of models (a `Scorer` gives logits), of files, or of measures beyond their mean.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError, NumericsError, must
from pipeline.core.records import (
    AS_RETRIEVED,
    MEASURES,
    POSITIVES_ADDED,
    PROTOCOLS,
    Collection,
    RerankingSet,
    Run,
    ends_with_query,
)
from pipeline.evaluation.measures import judged, mean, order, per_query, reciprocal_rank_fusion

log = logging.getLogger(__name__)

Rankings = dict[str, list[str]]
"""query id → passage ids, best first."""

SystemRankings = dict[str, Rankings]
"""protocol → rankings of one system on one set."""


class Scorer(Protocol):
    """Anything that scores (query, passage) text pairs; higher is more relevant."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Return logits of shape (pairs,), in the order of the pairs."""
        ...


def run_candidates(run: Run, depth: int, own_passages: Container[str] = ()) -> dict[str, list[str]]:
    """Return the best `depth` passages of each query of a run: score descending, id ascending.

    For an id in `own_passages`, the passage of that id is no candidate of the query of that id, see
    `queries_among_passages`.
    """
    ranked = {
        query: {passage: score for passage, score in scores.items() if passage != query or query not in own_passages}
        for query, scores in run.items()
    }
    return {query: order(list(scores), list(scores.values()))[:depth] for query, scores in ranked.items()}


def queries_among_passages(collection: Collection) -> set[str]:
    """Return the ids of queries that are also passages of their collection and not judged relevant to themselves.

    BEIR's evaluation removes such a passage from a query's ranking by its id alone. Here the passage's text must also
    end with the query's text, because many collections number both queries and passages from 1.
    """
    return {
        query
        for query, text in collection.queries.items()
        if query in collection.passages
        and collection.qrels.get(query, {}).get(query, 0) < 1
        and ends_with_query(collection.passages[query], text)
    }


def collection_set(collection: Collection, candidates: Mapping[str, Sequence[str]], name: str) -> RerankingSet:
    """Return the set for reranking a collection: its queries with a positive, their candidates and their passages.

    Queries without a positive have no measure: they are left out, and the log counts them. A query without candidates
    stays, and counts 0 as retrieved.

    Raises:
        DataError: when no query has a positive, or a candidate is not in the collection.
    """
    queries = [query for query in judged(collection.qrels) if query in collection.queries]
    if not queries:
        remedy = "Check that the ids of qrels and queries agree."
        raise DataError(must(f"collection {name}", "judge a passage relevant for some query", "none", remedy))
    if len(queries) < len(collection.queries):
        log.info("%s: %d of %d queries have a positive and are counted", name, len(queries), len(collection.queries))
    qrels = {query: collection.qrels[query] for query in queries}
    needed = dict.fromkeys(passage for query in queries for passage in candidates.get(query, ()))
    unknown = [passage for passage in needed if passage not in collection.passages]
    if unknown:
        got = f"{len(unknown)} unknown ones, first {unknown[0]!r}"
        raise DataError(must(f"collection {name}", "hold each candidate", got, "Check the run's ids."))
    positives = {p for grades in qrels.values() for p, grade in grades.items() if grade > 0}
    remarks = []
    if lost := sum(passage not in collection.passages for passage in positives):
        remarks.append(
            f"{lost} of {len(positives)} relevant passages are missing from the collection and count as not found"
        )
        log.warning("%s: %s", name, remarks[0])
    needed |= dict.fromkeys(sorted(positives & collection.passages.keys()))
    return RerankingSet(
        name=name,
        queries={query: collection.queries[query] for query in queries},
        passages={passage: collection.passages[passage] for passage in needed},
        candidates={query: list(candidates.get(query, ())) for query in queries},
        qrels=qrels,
        remarks=remarks,
    )


def pool_pairs(reranking_set: RerankingSet, protocol: str) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Return what must be scored under a protocol: query id → distinct passage ids, and the text pairs in that order.

    Queries without a positive are left out, as they have no measure. The same set always gives the same pairs.
    """
    pools = {
        query: reranking_set.pool(query, protocol)
        for query in judged(reranking_set.qrels)
        if query in reranking_set.queries
    }
    pairs = [
        (reranking_set.queries[query], reranking_set.passages[passage])
        for query, pool in pools.items()
        for passage in pool
    ]
    return pools, pairs


def _scored(reranking_set: RerankingSet, scorer: Scorer, protocol: str) -> dict[str, dict[str, float]]:
    """Return query id → passage id → score; each distinct pair of ids is scored once.

    Raises:
        NumericsError: when a score is not finite.
    """
    pools, pairs = pool_pairs(reranking_set, protocol)
    scores = scorer.score(pairs) if pairs else np.zeros(0, dtype=np.float32)
    if scores.shape != (len(pairs),):
        raise ValueError(f"the scorer gave shape {scores.shape} for {len(pairs)} pairs")
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        remedy = "The model diverged or its weights are damaged: train again with a smaller learning rate, or fp32."
        raise NumericsError(must(f"every score on {reranking_set.name}", "be finite", f"{bad} that are not", remedy))
    values = iter(scores.tolist())
    return {query: {passage: next(values) for passage in pool} for query, pool in pools.items()}


def rerank(reranking_set: RerankingSet, scorer: Scorer) -> SystemRankings:
    """Rank a set under both protocols from one scoring of each (query id, passage id) pair."""
    scored = _scored(reranking_set, scorer, POSITIVES_ADDED)
    rankings: SystemRankings = {}
    for protocol in PROTOCOLS:
        pools = {query: reranking_set.pool(query, protocol) for query in scored}
        rankings[protocol] = {query: order(pool, [scored[query][p] for p in pool]) for query, pool in pools.items()}
    return rankings


def mean_measures(reranking_set: RerankingSet, scorer: Scorer, protocol: str = AS_RETRIEVED) -> dict[str, float]:
    """Return measure → mean under one protocol, scoring only the pairs it needs: the evaluation at fixed steps."""
    scored = _scored(reranking_set, scorer, protocol)
    rankings = {query: order(list(scores), list(scores.values())) for query, scores in scored.items()}
    values = per_query(rankings, reranking_set.qrels)
    return {measure: mean(values[measure]) for measure in MEASURES}


def first_stage(reranking_set: RerankingSet) -> SystemRankings:
    """Return the candidates in their given order; added positives change nothing, as the first stage never saw them."""
    return {protocol: reranking_set.candidates for protocol in PROTOCOLS}


def fuse(*systems: SystemRankings) -> SystemRankings:
    """Fuse systems by `reciprocal_rank_fusion`, protocol by protocol."""
    return {protocol: reciprocal_rank_fusion([system[protocol] for system in systems]) for protocol in PROTOCOLS}
