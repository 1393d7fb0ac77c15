"""The figures of a finished run, read from its files in the form that `comparison` compares with published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.artifacts import manifest_of, problems
from pipeline.core.atomic import read_json
from pipeline.core.errors import ArtifactError
from pipeline.core.records import AS_RETRIEVED, FIRST_STAGE, HEADLINE, TRAINED, Qrels
from pipeline.data.trec import read_qrels, read_run
from pipeline.evaluation.measures import mean, per_query
from pipeline.reporting.facts import read_log

Json = dict[str, Any]

FIRST_STAGE_RUN = f"runs/{FIRST_STAGE}.{AS_RETRIEVED}.trec"
"""File of the first stage's rankings, relative to an evaluation's folder."""


@dataclass(slots=True)
class Measured:
    """The figures to compare; an empty field was not measured.

    `log` is step → set → nDCG@10, where step 0 is the untrained model. `final` and `half_width` are set → protocol →
    measure → figure; a half-width is half the 95 % interval of trained minus first stage. `base_map` is the first
    stage's MAP as the reference evaluator computes it, see `reference_map`.
    """

    experiment: str
    counts: dict[str, int] = field(default_factory=dict)
    first_stage: dict[str, dict[str, float]] = field(default_factory=dict)
    base_map: dict[str, float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    log: dict[int, dict[str, float]] = field(default_factory=dict)
    final: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    half_width: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    best_step: int | None = None
    energy_kwh: float | None = None


def reference_map(candidates: Mapping[str, Sequence[str]], qrels: Qrels) -> float:
    """Return the first stage's MAP as the reference evaluator computes it for its base ranking.

    That evaluator appends a query's missing positives below the candidates, unless no positive was found. nDCG@10 and
    MRR@10 are the same under both definitions if there are at least 10 candidates.
    """
    ranked = {}
    for query, grades in qrels.items():
        own = list(candidates.get(query, ()))
        positives = [passage for passage, grade in grades.items() if grade > 0]
        there = set(own)
        missing = [passage for passage in positives if passage not in there]
        ranked[query] = own if len(missing) == len(positives) else own + missing
    return mean(per_query(ranked, qrels)["map"])


def require_finished(run: Path) -> dict[str, str]:
    """Refuse an unfinished or altered run; return set → name of its evaluation's folder, as recorded with the card.

    Raises:
        ArtifactError: naming the first problem.
    """
    evaluations: dict[str, str] = {}
    found = problems(run / "model") + problems(run / "card")
    if not found:
        evaluations = (manifest_of(run / "card") or {})["key"]["evaluations"]
        found = [
            sentence for folder in evaluations.values() for sentence in problems(run / "evaluations" / folder)
        ] or ([] if evaluations else ["no set was evaluated"])
    if found:
        raise ArtifactError(f"{run} must be a finished, verified run, got: {found[0]}. Run its command again.")
    return evaluations


def measured_run(run: Path) -> Measured:
    """Return the figures in a finished run's files.

    Raises:
        ArtifactError: when the run is incomplete or a file of it was altered.
    """
    evaluations = require_finished(run)
    training = read_json(run / "model" / "training.json")
    summary = read_json(run / "card" / "summary.json")
    result = Measured(summary["name"], best_step=training["best_step"])
    for row in read_log(run / "model" / "metrics.jsonl"):
        if row["kind"] == "train":
            result.losses[row["step"]] = row["loss"]
        else:
            result.log[row["step"]] = {name: of[HEADLINE] for name, of in row["evaluation"].items()}
    mined = summary["statistics"]
    result.counts = {name: mined[name] for name in ("rows", "positives", "negatives")}
    result.energy_kwh = read_json(run / "model" / "emissions.json").get("energy_kwh")
    members: dict[str, list[str]] = {}
    for name, folder in evaluations.items():
        found = run / "evaluations" / folder
        measures = read_json(found / "measures.json")
        add_set(result, name, measures)
        if "sets" in measures:
            members[name] = measures["sets"]
        else:
            ranked = {query: list(scores) for query, scores in read_run(found / FIRST_STAGE_RUN).items()}
            result.base_map[name] = reference_map(ranked, read_qrels(found / "qrels.trec"))
    for name, sets in members.items():
        result.base_map[name] = sum(result.base_map[member] for member in sets) / len(sets)
    return result


def add_set(measured: Measured, name: str, measures: Json) -> None:
    """Add a measures.json: the first stage's figures and, if present, the trained model's with their half-widths."""
    measured.first_stage[name] = measures[AS_RETRIEVED][FIRST_STAGE]
    for protocol in (key for key in measures if isinstance(measures[key], dict) and TRAINED in measures[key]):
        measured.final.setdefault(name, {})[protocol] = measures[protocol][TRAINED]
        measured.half_width.setdefault(name, {})[protocol] = {
            measure: (of["high"] - of["low"]) / 2 for measure, of in measures[protocol]["differences"][TRAINED].items()
        }
