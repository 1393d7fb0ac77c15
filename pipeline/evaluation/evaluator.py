"""Evaluation of rerankers: measures of several systems on one set, their differences and confidence intervals.

Knows nothing of models, of how rankings are made (`reranking`), of where a set came from, or of caching.
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
from pipeline.evaluation.differences import FEWEST_RESAMPLED, Difference, difference
from pipeline.evaluation.figures import SetFigures, Values, means_of, protocol_json
from pipeline.evaluation.measures import judged, per_query
from pipeline.evaluation.protocols import NOTES
from pipeline.evaluation.reranking import SystemRankings, first_stage

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Evaluation:
    """One set under every system and protocol. Create it with `evaluate`, which fills `values` and orders `systems`."""

    set: RerankingSet
    systems: dict[str, SystemRankings]
    """first_stage, untrained, rivals in the caller's order, trained; the first stage is always present."""
    resamples: int
    """Bootstrap draws, if the set's queries are grouped."""
    trained_on: int = 0
    """Number of counted queries whose text is also a training question's."""
    values: Values = field(default_factory=dict)

    @property
    def queries(self) -> list[str]:
        """The ids of the queries that count, in the order of the judgements."""
        return list(self.values[AS_RETRIEVED][FIRST_STAGE][HEADLINE])

    def means(self, protocol: str, system: str) -> dict[str, float]:
        """Return measure → mean over queries."""
        return means_of(self.values[protocol][system])

    def scored(self) -> SetFigures:
        """Return the figures that a mean over sets needs."""
        return SetFigures(self.set.name, self.values, self.positives_found())

    def differences(self, protocol: str, a: str, b: str) -> dict[str, Difference]:
        """Return measure → system a minus system b; if the set's queries are grouped, whole groups are resampled."""
        of = self.values[protocol]
        return {
            measure: difference(of[a][measure], of[b][measure], self.set.groups, resamples=self.resamples)
            for measure in MEASURES
        }

    def positives_found(self) -> float:
        """Return the share of all judged positives that are among the candidates."""
        found = total = 0
        for query in self.queries:
            candidates = set(self.set.candidates.get(query, ()))
            positives = [passage for passage, grade in self.set.qrels[query].items() if grade > 0]
            found, total = found + sum(p in candidates for p in positives), total + len(positives)
        return found / total

    def measures_json(self) -> dict[str, Any]:
        """Return the content of measures.json, which summary.json repeats under the set's name.

        Its keys are `queries`, `groups` (None if queries are independent), `positives_found`, `queries_trained_on` (how
        many queries are also training questions), `interval` (in words), `notes` (protocol → sentence), `first_stage`
        and `remarks` (as in `RerankingSet`), and each protocol. A protocol maps each system → measure → mean;
        `differences` → system → measure → {mean, low, high, p}, for that system minus the first stage; and
        `trained_minus` → system → the same, for trained minus that system, without the first stage.
        """
        groups = self.set.groups
        clusters = None if groups is None else len({groups.get(query, f"\0{query}") for query in self.queries})
        result: dict[str, Any] = {
            "queries": len(self.queries),
            "groups": clusters,
            "positives_found": self.positives_found(),
            "queries_trained_on": self.trained_on,
            "interval": self._interval(clusters),
            "notes": dict(NOTES),
            "first_stage": self.set.first_stage,
            "remarks": self.set.remarks,
        }
        for protocol in PROTOCOLS:
            means = {system: self.means(protocol, system) for system in self.systems}
            result[protocol] = protocol_json(means, partial(self.differences, protocol))
        return result

    def _interval(self, clusters: int | None) -> str:
        """Return in words how `differences` estimates intervals."""
        if clusters is None:
            return "95 %, paired t over queries"
        if clusters == 1:
            return "not estimated: all queries are of one group"
        if clusters < FEWEST_RESAMPLED:
            return f"95 %, Student's t over {clusters} groups of queries"
        of = f"{clusters} groups of queries, {self.resamples} draws"
        return f"95 %, studentised bootstrap over {of}; Student's t where hardly any group differs"


def evaluate(
    reranking_set: RerankingSet,
    systems: Mapping[str, SystemRankings],
    *,
    resamples: int,
    questions: Container[str] = (),
) -> Evaluation:
    """Measure systems on a set; the first stage is always added.

    Args:
        reranking_set: The set; queries without a positive are left out, which is logged.
        systems: Name → rankings; `untrained` and `trained` take their fixed places, rivals keep their order.
        resamples: Bootstrap draws, if the set's queries are grouped.
        questions: The folded training questions, to count the queries that are among them.

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
    """Write an evaluation's results into a folder: all that an IR tool needs to compute the measures again.

    - `measures.json`: means, differences and intervals (`Evaluation.measures_json`).
    - `per_query.tsv`: query, protocol, system, measure, value, under a header; ids are escaped as in the TREC files.
    - `run.trec`: the trained model's rankings as retrieved; not written without a trained model.
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
