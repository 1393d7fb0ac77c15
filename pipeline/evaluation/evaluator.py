"""What a reranker is worth: measures of several systems on one set, the differences and their intervals.

Knows nothing of models or of how rankings came about (`reranking`), of where a set came from, or of caching.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core.artifacts import read_json, write_json, write_text
from pipeline.core.errors import ConfigError, DataError, must
from pipeline.core.fingerprint import slug
from pipeline.core.records import (
    AS_RETRIEVED,
    FIRST_STAGE,
    POSITIVES_ADDED,
    PROTOCOLS,
    TRAINED,
    UNTRAINED,
    RerankingSet,
    fold,
)
from pipeline.data.trec import escape, unescape, write_qrels, write_run
from pipeline.evaluation.measures import (
    MEASURES,
    Difference,
    difference,
    judged,
    mean,
    per_query,
    stratified_difference,
)
from pipeline.evaluation.reranking import SystemRankings, first_stage

log = logging.getLogger(__name__)

NOTES = {
    AS_RETRIEVED: "The first stage's candidates reordered; a positive it never found counts 0.",
    POSITIVES_ADDED: "Positives the first stage missed are added before reranking, while the first stage keeps its "
    "as-retrieved figure: this protocol supports no claim against the first stage.",
}
"""What each protocol means, to stand beside its figures."""

RESERVED = {"difference", "differences", "trained_minus"}
"""Keys of a protocol in measures.json that are not systems."""


Values = dict[str, dict[str, dict[str, dict[str, float]]]]
"""protocol → system → measure → query id → value."""


@dataclass(slots=True)
class Evaluation:
    """One set under every system and protocol. Make it with `evaluate`, which fills `values` and orders `systems`."""

    set: RerankingSet
    systems: dict[str, SystemRankings]
    """first_stage, untrained, rivals in the caller's order, trained; whichever there are."""
    resamples: int = 2000
    seed: int = 12
    trained_on: int = 0
    """Queries that count whose text is a training question's."""
    values: Values = field(default_factory=dict)

    @property
    def queries(self) -> list[str]:
        """The query ids that count, in the judgements' order."""
        return list(self.values[AS_RETRIEVED][FIRST_STAGE][MEASURES[0]])

    def means(self, protocol: str, system: str) -> dict[str, float]:
        """Measure → mean over queries."""
        return _means(self.values[protocol][system])

    def scored(self) -> Scored:
        """What a mean over sets needs of it."""
        return Scored(self.set.name, self.values, self.positives_found())

    def differences(self, protocol: str, a: str, b: str) -> dict[str, Difference]:
        """Measure → system a minus system b; resamples clusters where the set's queries are grouped."""
        of = self.values[protocol]
        return {
            measure: difference(of[a][measure], of[b][measure], self.set.groups, self.resamples, self.seed)
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

        `queries`, `groups` (None where queries are independent), `positives_found`, `queries_trained_on` (how many are
        training questions too), `interval` (in words), `notes`
        (protocol → sentence), then for each protocol: system → measure → mean; `difference` (trained minus first
        stage) → measure → {mean, low, high, p}; `differences` → system → the same, that system minus the first stage;
        `trained_minus` → system → the same, trained minus that system, the first stage left out.
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
            else f"95 %, studentised bootstrap over {clusters} groups of queries, {self.resamples} draws",
            "notes": dict(NOTES),
        }
        for protocol in PROTOCOLS:
            means = {system: self.means(protocol, system) for system in self.systems}
            result[protocol] = _protocol_json(means, partial(self.differences, protocol))
        return result


def _protocol_json(
    means: Mapping[str, Mapping[str, float]], differences: Callable[[str, str], Mapping[str, Difference]]
) -> dict[str, Any]:
    """One protocol's part of measures.json; see `Evaluation.measures_json`."""

    def compared(a: str, b: str) -> dict[str, dict[str, float]]:
        return {measure: found.as_json() for measure, found in differences(a, b).items()}

    result: dict[str, Any] = {system: dict(figures) for system, figures in means.items()}
    result["differences"] = {system: compared(system, FIRST_STAGE) for system in means if system != FIRST_STAGE}
    if TRAINED in means:
        result["difference"] = result["differences"][TRAINED]
        result["trained_minus"] = {
            system: compared(TRAINED, system) for system in means if system not in (FIRST_STAGE, TRAINED)
        }
    return result


@dataclass(frozen=True, slots=True)
class Scored:
    """A set's figures without its texts and rankings."""

    name: str
    values: Values
    positives_found: float
    """As `Evaluation.positives_found`."""

    @property
    def systems(self) -> list[str]:
        """In the order shown."""
        return list(self.values[AS_RETRIEVED])


def _means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {measure: mean(of) for measure, of in values.items()}


def evaluate(
    reranking_set: RerankingSet,
    systems: Mapping[str, SystemRankings],
    *,
    resamples: int = 2000,
    questions: Container[str] = (),
) -> Evaluation:
    """Measure systems on a set, the first stage always with them.

    Args:
        reranking_set: The set; queries without a positive are left out, which is logged.
        systems: Name → rankings; `untrained` and `trained` take their places, rivals keep the order given.
        resamples: Bootstrap draws where the set's queries are grouped.
        questions: What was trained on, folded, to count the queries among it.

    Raises:
        ConfigError: when a rival's name is one the report needs, or two names give one file name.
        DataError: when no query has a positive.
    """
    counted = set(judged(reranking_set.qrels))
    if not counted:
        remedy = "Check that the ids of qrels and queries agree."
        raise DataError(must(f"Set {reranking_set.name}", "have a query with a positive", "none", remedy))
    if left_out := sum(query not in counted for query in reranking_set.queries):
        log.warning("%s: %d queries without a positive are left out of every measure", reranking_set.name, left_out)
    named = {FIRST_STAGE: first_stage(reranking_set), **systems}
    rivals = [name for name in named if name not in (FIRST_STAGE, UNTRAINED, TRAINED)]
    ordered = [name for name in (FIRST_STAGE, UNTRAINED, *rivals, TRAINED) if name in named]
    files: dict[str, str] = {}
    for name in ordered:
        if name in RESERVED or slug(name) in files:
            got, remedy = f"{name!r} beside {ordered}", "Rename the rival's folder."
            raise ConfigError(must("Names in evaluation.rivals", "be distinct and not the report's own", got, remedy))
        files[slug(name)] = name
    evaluation = Evaluation(reranking_set, {name: named[name] for name in ordered}, resamples)
    evaluation.trained_on = sum(fold(reranking_set.queries[query]) in questions for query in counted)
    for protocol in PROTOCOLS:
        evaluation.values[protocol] = {
            name: per_query(rankings[protocol], reranking_set.qrels) for name, rankings in evaluation.systems.items()
        }
    return evaluation


def mean_of(sets: Sequence[Scored], name: str) -> dict[str, Any]:
    """The mean over sets of each set's mean (as `NanoBEIR_R100_mean`), in the form of measures.json plus `sets`.

    Only systems that every set has are in it. Each set weighs the same whatever its size. The intervals are t
    intervals stratified by set, see `measures.stratified_difference`: they speak of other queries to these sets.

    Raises:
        ValueError: when there is no set.
    """
    if not sets:
        raise ValueError(f"{name} needs at least one set")
    systems = [system for system in sets[0].systems if all(system in of.systems for of in sets)]

    def differences(protocol: str, a: str, b: str) -> dict[str, Difference]:
        return {
            measure: stratified_difference(
                [(of.values[protocol][a][measure], of.values[protocol][b][measure]) for of in sets]
            )
            for measure in MEASURES
        }

    result: dict[str, Any] = {
        "name": name,
        "sets": [of.name for of in sets],
        "queries": sum(len(of.values[AS_RETRIEVED][FIRST_STAGE][MEASURES[0]]) for of in sets),
        "positives_found": math.fsum(of.positives_found for of in sets) / len(sets),
        "interval": "95 %, t over queries, stratified by set",
        "notes": dict(NOTES),
    }
    for protocol in PROTOCOLS:
        means = {system: mean_of_means([_means(of.values[protocol][system]) for of in sets]) for system in systems}
        result[protocol] = _protocol_json(means, partial(differences, protocol))
    return result


def mean_of_means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Measure → mean over sets, each set's figure weighing the same."""
    return {measure: math.fsum(figure[measure] for figure in figures) / len(figures) for measure in MEASURES}


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


def read(folder: Path, name: str) -> Scored:
    """The figures of set `name` that `write` wrote into a folder, to the last bit."""
    values: Values = {}
    for line in (folder / "per_query.tsv").read_text(encoding="utf-8").split("\n")[1:-1]:
        query, protocol, system, measure, value = line.split("\t")
        of = values.setdefault(protocol, {}).setdefault(unescape(system), {}).setdefault(measure, {})
        of[unescape(query)] = float(value)
    return Scored(name, values, float(read_json(folder / "measures.json")["positives_found"]))
