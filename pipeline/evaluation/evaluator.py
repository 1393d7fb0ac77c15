"""What a reranker is worth: measures of several systems on one set, the differences and their intervals.

Knows nothing of models or of how rankings came about (`reranking`), of where a set came from, or of caching.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core.atomic import write_json, write_text
from pipeline.core.errors import DataError, must
from pipeline.core.fingerprint import slug
from pipeline.core.records import (
    AS_RETRIEVED,
    COMPARISONS,
    FIRST_STAGE,
    HEADLINE,
    MEASURES,
    PROTOCOLS,
    TRAINED,
    UNTRAINED,
    RerankingSet,
    fold,
)
from pipeline.data.trec import escape, write_qrels, write_run
from pipeline.evaluation.figures import SetFigures, Values, means_of, protocol_json
from pipeline.evaluation.measures import (
    Difference,
    difference,
    judged,
    per_query,
)
from pipeline.evaluation.protocols import NOTES
from pipeline.evaluation.reranking import SystemRankings, first_stage

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Evaluation:
    """One set under every system and protocol. Make it with `evaluate`, which fills `values` and orders `systems`."""

    set: RerankingSet
    systems: dict[str, SystemRankings]
    """first_stage, untrained, rivals in the caller's order, trained; whichever there are."""
    resamples: int
    """Bootstrap draws where the set's queries are grouped."""
    trained_on: int = 0
    """Queries that count whose text is a training question's."""
    values: Values = field(default_factory=dict)

    @property
    def queries(self) -> list[str]:
        """The query ids that count, in the judgements' order."""
        return list(self.values[AS_RETRIEVED][FIRST_STAGE][HEADLINE])

    def means(self, protocol: str, system: str) -> dict[str, float]:
        """Measure → mean over queries."""
        return means_of(self.values[protocol][system])

    def scored(self) -> SetFigures:
        """What a mean over sets needs of it."""
        return SetFigures(self.set.name, self.values, self.positives_found())

    def differences(self, protocol: str, a: str, b: str) -> dict[str, Difference]:
        """Measure → system a minus system b; resamples clusters where the set's queries are grouped."""
        of = self.values[protocol]
        return {
            measure: difference(of[a][measure], of[b][measure], self.set.groups, resamples=self.resamples)
            for measure in MEASURES
        }

    def positives_found(self) -> float:
        """The share of all judged positives that are among the candidates."""
        found = total = 0
        for query in self.queries:
            candidates = set(self.set.candidates.get(query, ()))
            positives = [passage for passage, grade in self.set.qrels[query].items() if grade > 0]
            found, total = found + sum(p in candidates for p in positives), total + len(positives)
        return found / total

    def measures_json(self) -> dict[str, Any]:
        """The content of measures.json, which summary.json repeats under the set's name.

        `queries`, `groups` (None where queries are independent), `positives_found`, `queries_trained_on` (how many
        are training questions too), `interval` (in words), `notes` (protocol → sentence), `first_stage` and
        `remarks` (as in `RerankingSet`), then for each protocol: system → measure → mean; `differences` → system →
        measure → {mean, low, high, p}, that system minus the first stage; `trained_minus` → system → the same, trained
        minus that system, the first stage left out.
        """
        groups = self.set.groups
        clusters = None if groups is None else len({groups.get(query, f"\0{query}") for query in self.queries})
        result: dict[str, Any] = {
            "queries": len(self.queries),
            "groups": clusters,
            "positives_found": self.positives_found(),
            "queries_trained_on": self.trained_on,
            "interval": "95 %, paired t over queries"
            if clusters is None
            else f"95 %, studentised bootstrap over {clusters} groups of queries, {self.resamples} draws; Student's t "
            "where hardly any group differs",
            "notes": dict(NOTES),
            "first_stage": self.set.first_stage,
            "remarks": self.set.remarks,
        }
        for protocol in PROTOCOLS:
            means = {system: self.means(protocol, system) for system in self.systems}
            result[protocol] = protocol_json(means, partial(self.differences, protocol))
        return result


def evaluate(
    reranking_set: RerankingSet,
    systems: Mapping[str, SystemRankings],
    *,
    resamples: int,
    questions: Container[str] = (),
) -> Evaluation:
    """Measure systems on a set, the first stage always with them.

    Args:
        reranking_set: The set; queries without a positive are left out, which is logged.
        systems: Name → rankings; `untrained` and `trained` take their places, rivals keep the order given.
        resamples: Bootstrap draws where the set's queries are grouped.
        questions: What was trained on, folded, to count the queries among it.

    Raises:
        DataError: when no query has a positive.
    """
    counted = set(judged(reranking_set.qrels))
    if not counted:
        remedy = "Check that the ids of qrels and queries agree."
        raise DataError(must(f"set {reranking_set.name}", "have a query with a positive", "none", remedy))
    if left_out := sum(query not in counted for query in reranking_set.queries):
        log.warning("%s: %d queries without a positive are left out of every measure", reranking_set.name, left_out)
    named = {FIRST_STAGE: first_stage(reranking_set), **systems}
    rivals = [name for name in named if name not in (FIRST_STAGE, UNTRAINED, TRAINED)]
    ordered = [name for name in (FIRST_STAGE, UNTRAINED, *rivals, TRAINED) if name in named]
    assert not set(COMPARISONS) & set(ordered), "a system's name is none of the report's own keys"
    assert len({slug(name) for name in ordered}) == len(ordered), "a system's name names its file"
    seen = sum(fold(text) in questions for query, text in reranking_set.queries.items() if query in counted)
    evaluation = Evaluation(reranking_set, {name: named[name] for name in ordered}, resamples, seen)
    for protocol in PROTOCOLS:
        evaluation.values[protocol] = {
            name: per_query(rankings[protocol], reranking_set.qrels) for name, rankings in evaluation.systems.items()
        }
    return evaluation


def write(evaluation: Evaluation, folder: Path) -> None:
    """Write an evaluation's facts into a folder: everything that any IR tool needs to score it again.

    - `measures.json`: means, differences and intervals (`Evaluation.measures_json`).
    - `per_query.tsv`: query, protocol, system, measure, value; a header, ids escaped as in the TREC files.
    - `run.trec`: the trained model, as retrieved (without a trained model it is not written).
    - `runs/<system>.<protocol>.trec`: every system's rankings; the first stage's are the same under both protocols.
    - `qrels.trec`: the judgements of the queries that count. A query without candidates has judgements but no line in
      a run: trec_eval needs `-c` to count it as 0.
    """
    write_json(folder / "measures.json", evaluation.measures_json())
    lines = ["query\tprotocol\tsystem\tmeasure\tvalue\n"]
    lines += [
        f"{escape(query)}\t{protocol}\t{escape(system)}\t{measure}\t{value!r}\n"
        for protocol, by_system in evaluation.values.items()
        for system, by_measure in by_system.items()
        for measure, by_query in by_measure.items()
        for query, value in by_query.items()
    ]
    write_text(folder / "per_query.tsv", "".join(lines))
    queries = evaluation.queries
    for system, by_protocol in evaluation.systems.items():
        for protocol, rankings in by_protocol.items():
            run = {query: rankings.get(query, []) for query in queries}
            write_run(folder / "runs" / f"{slug(system)}.{protocol}.trec", run, system)
            if system == TRAINED and protocol == AS_RETRIEVED:
                write_run(folder / "run.trec", run, system)
    write_qrels(folder / "qrels.trec", {query: evaluation.set.qrels[query] for query in queries})
