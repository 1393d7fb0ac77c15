"""Figures of evaluated sets: a set's values and their means, the mean over sets, and their form in JSON.

Knows nothing of texts, rankings or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core.atomic import read_json
from pipeline.core.records import AS_RETRIEVED, FIRST_STAGE, HEADLINE, MEASURES, PROTOCOLS, TRAINED
from pipeline.data.trec import unescape
from pipeline.evaluation.differences import Difference, stratified_difference
from pipeline.evaluation.measures import mean
from pipeline.evaluation.protocols import NOTES

Values = dict[str, dict[str, dict[str, dict[str, float]]]]
"""protocol → system → measure → query id → value."""


@dataclass(frozen=True, slots=True)
class SetFigures:
    """A set's figures without its texts and rankings."""

    name: str
    values: Values
    positives_found: float
    """See `Evaluation.positives_found`."""

    @property
    def systems(self) -> list[str]:
        """The names of the systems, in the order in which they are shown."""
        return list(self.values[AS_RETRIEVED])


def means_of(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return measure → mean over queries."""
    return {measure: mean(of) for measure, of in values.items()}


def protocol_json(
    means: Mapping[str, Mapping[str, float]], differences: Callable[[str, str], Mapping[str, Difference]]
) -> dict[str, Any]:
    """Return one protocol's part of measures.json; see `Evaluation.measures_json`."""

    def compared(a: str, b: str) -> dict[str, dict[str, float]]:
        return {measure: found.as_json() for measure, found in differences(a, b).items()}

    result: dict[str, Any] = {system: dict(figures) for system, figures in means.items()}
    result["differences"] = {system: compared(system, FIRST_STAGE) for system in means if system != FIRST_STAGE}
    if TRAINED in means:
        result["trained_minus"] = {
            system: compared(TRAINED, system) for system in means if system not in (FIRST_STAGE, TRAINED)
        }
    return result


def mean_of(sets: Sequence[SetFigures], name: str) -> dict[str, Any]:
    """Return the mean over sets of each set's mean (such as `NanoBEIR_R100_mean`), in the form of measures.json.

    It also has `name` and `sets`, and lacks what only a single set has: `groups`, `queries_trained_on`, `first_stage`,
    `remarks`. It includes only systems that every set has. All sets have the same weight, whatever their size. The
    intervals are t intervals stratified by set (`differences.stratified_difference`): they are about other queries to
    the same sets.

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
        "queries": sum(len(of.values[AS_RETRIEVED][FIRST_STAGE][HEADLINE]) for of in sets),
        "positives_found": math.fsum(of.positives_found for of in sets) / len(sets),
        "interval": "95 %, t over queries, stratified by set",
        "notes": dict(NOTES),
    }
    for protocol in PROTOCOLS:
        means = {system: mean_of_means([means_of(of.values[protocol][system]) for of in sets]) for system in systems}
        result[protocol] = protocol_json(means, partial(differences, protocol))
    return result


def mean_of_means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return measure → mean over sets, all sets with the same weight."""
    return {measure: math.fsum(figure[measure] for figure in figures) / len(figures) for measure in MEASURES}


def read(folder: Path, name: str) -> SetFigures:
    """Read the figures of set `name` that `evaluator.write` wrote into a folder, exact to the last bit."""
    values: Values = {}
    for line in (folder / "per_query.tsv").read_text(encoding="utf-8").split("\n")[1:-1]:
        query, protocol, system, measure, value = line.split("\t")
        of = values.setdefault(protocol, {}).setdefault(unescape(system), {}).setdefault(measure, {})
        of[unescape(query)] = float(value)
    return SetFigures(name, values, float(read_json(folder / "measures.json")["positives_found"]))
