"""Compare a run's figures with the published ones: which agree, within which band, and why others may differ.

The published figures are the facts of `published.json`. Measures nothing; `reproduction` passes in what was
measured. Bands: a loss ±3 %; gooaq-dev ±0.006; a set of 50 queries its own interval; the first stage exactly, up to
the rounding of the published figures. OKish means within twice the band, or a difference whose reason the row names.
An untrained model's figure is no check: always OKish.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config.set_names import is_nano_beir
from pipeline.core.atomic import read_json
from pipeline.core.errors import ConfigError, must
from pipeline.core.markdown import escape
from pipeline.core.records import HEADLINE, POSITIVES_ADDED
from pipeline.reporting.run_figures import Measured

Json = dict[str, Any]

FACTS = Path(__file__).with_name("published.json")
"""Every published fact: experiment → `hub_id` and `facts`, each with `id`, `status`, `kind` and `value`.

`status` says where a fact is checked: by the tests, or by a user who has the hub or the GPU that the tests do without.
"""

OK, OKISH, FAIL = "OK", "OKish", "FAIL"

LOSS_BAND, DEV_BAND, EXACT, NEAR_TIES, NEAR_COUNT, ENERGY_BAND = 0.03, 0.006, 0.00015, 0.002, 0.001, 0.25


@dataclass(slots=True)
class Row:
    """One published figure and ours."""

    id: str
    published: float
    ours: float | None
    band: str
    verdict: str
    note: str = ""


def published(experiment: str, path: Path | None = None) -> Json:
    """Return an experiment's published facts.

    Raises:
        ConfigError: when the file does not have that experiment.
    """
    book = read_json(path or FACTS)
    if experiment not in book:
        remedy = f"Published figures are of {' and '.join(book)}."
        raise ConfigError(must("experiment", "have published figures", repr(experiment), remedy))
    found: Json = book[experiment]
    return found


def _within(difference: float, band: float) -> str:
    return OK if difference <= band else OKISH if difference <= 2 * band else FAIL


def _row(fact: Json, ours: float | None, band: str, verdict: str, note: str = "") -> Row:
    return Row(fact["id"], fact["value"], ours, band, verdict, note)


def _figure(fact: Json, ours: float, half_widths: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return band, verdict and note for a set's figure: the interval for NanoBEIR sets, else a fixed band."""
    difference = abs(ours - fact["value"])
    if not is_nano_beir(fact["set"]):
        return f"±{DEV_BAND}", _within(difference, DEV_BAND), ""
    by_protocol = half_widths.get(fact["set"], {})
    wanted = by_protocol.get(fact.get("protocol", POSITIVES_ADDED), {})
    if fact["measure"] not in wanted:
        return "interval unknown", _within(difference, DEV_BAND), "no final evaluation gives an interval"
    return f"±{wanted[fact['measure']]:.4f}", _within(difference, wanted[fact["measure"]]), ""


def _final(fact: Json, measured: Measured) -> Row:
    ours = measured.final.get(fact["set"], {}).get(fact["protocol"], {}).get(fact["measure"])
    if ours is None:
        return _row(fact, None, "", FAIL, "not measured")
    return _row(fact, ours, *_figure(fact, ours, measured.half_width))


def _log(fact: Json, measured: Measured) -> Row:
    ours = measured.log.get(fact["step"], {}).get(fact["set"])
    if ours is None:
        return _row(fact, None, "", FAIL, "not evaluated at this step")
    band, verdict, note = _figure(fact, ours, measured.half_width)
    if fact["step"] == 0:
        verdict, note = OKISH, "untrained, so no check: two heads drawn at random rank differently"
    return _row(fact, ours, band, verdict, note)


def _loss(fact: Json, measured: Measured) -> Row:
    ours = measured.losses.get(fact["step"])
    if ours is None:
        return _row(fact, None, "", FAIL, "not logged at this step")
    return _row(fact, ours, f"±{LOSS_BAND:.0%}", _within(abs(ours / fact["value"] - 1), LOSS_BAND))


def _rows(fact: Json, measured: Measured) -> Row:
    ours = measured.counts.get(fact["name"])
    if ours is None:
        return _row(fact, None, "exact", FAIL, "not counted")
    close = 0 < abs(ours - fact["value"]) <= NEAR_COUNT * fact["value"]
    note = "passages with a positive's score, up to rounding, explain so small a difference" if close else ""
    return _row(fact, ours, "exact", OK if ours == fact["value"] else FAIL, note)


def _first_stage(fact: Json, measured: Measured) -> Row:
    ours, note = measured.first_stage.get(fact["set"], {}).get(fact["measure"]), ""
    if ours is None:
        return _row(fact, None, "", FAIL, "not measured")
    base = measured.base_map.get(fact["set"])
    if fact["measure"] == "map" and base is not None and base != ours:
        note = (
            f"compared as the reference evaluator counts it, with missing positives ranked below the list; "
            f"as retrieved, where they count 0, it is {ours:.4f}"
        )
        ours = base
    difference = abs(ours - fact["value"])
    if difference <= EXACT:
        return _row(fact, ours, f"±{EXACT}", OK, note)
    if difference <= NEAR_TIES:
        return _row(fact, ours, f"±{EXACT}", OKISH, note or "near ties of the retriever may break differently")
    return _row(fact, ours, f"±{EXACT}", FAIL, note)


def _best_step(fact: Json, measured: Measured) -> Row:
    if measured.best_step is None:
        return _row(fact, None, "", FAIL, "no checkpoint was chosen")
    if measured.best_step == fact["value"]:
        return _row(fact, measured.best_step, "the same", OK)
    return _row(fact, measured.best_step, "the same", OKISH, "late checkpoints differ by less than the band")


def _energy(fact: Json, measured: Measured) -> Row:
    ours = measured.energy_kwh
    if ours is None:
        return _row(fact, None, f"±{ENERGY_BAND:.0%}", OKISH, "not measured")
    if abs(ours / fact["value"] - 1) <= ENERGY_BAND:
        return _row(fact, ours, f"±{ENERGY_BAND:.0%}", OK)
    return _row(fact, ours, f"±{ENERGY_BAND:.0%}", OKISH, "kWh; depends on the machine")


JUDGES: dict[str, Callable[[Json, Measured], Row]] = {
    "rows": _rows,
    "first_stage": _first_stage,
    "loss": _loss,
    "log": _log,
    "best_step": _best_step,
    "final": _final,
    "energy": _energy,
}
"""Kind of a fact → the function that compares it. Facts of other kinds are checked by tests or only reported."""

EVERYTHING = tuple(JUDGES)


def compare(measured: Measured, kinds: Sequence[str] = EVERYTHING, path: Path | None = None) -> Json:
    """Compare every published figure of the given kinds with ours.

    Returns:
        `experiment`, `published` (hub id), `below_first_stage` (sets on which the published model's nDCG@10 is below
        the first stage's; empty unless `kinds` has "final"), `verdicts` (verdict → count) and `rows` (see `Row`), in
        the order of the facts. The row of a figure that was not measured says so, and is not OK.
    """
    source = published(measured.experiment, path)
    models = [fact for fact in source["facts"] if fact["kind"] == "final" and "final" in kinds]
    rows = [JUDGES[fact["kind"]](fact, measured) for fact in source["facts"] if fact["kind"] in kinds]
    counted = Counter(row.verdict for row in rows)
    return {
        "experiment": measured.experiment,
        "published": source["hub_id"],
        "below_first_stage": [
            fact["set"] for fact in models if fact["measure"] == HEADLINE and fact.get("gain", 0.0) < 0
        ],
        "verdicts": {verdict: counted[verdict] for verdict in (OK, OKISH, FAIL)},
        "rows": [asdict(row) for row in rows],
    }


def _number(value: float | None) -> str:
    """Return a figure with four decimals, or with as many as show two digits of a small one."""
    if value is None or isinstance(value, int):
        return "-" if value is None else f"{value:,}"
    decimals = 1 - math.floor(math.log10(abs(value))) if 0 < abs(value) < 0.001 else 4
    return f"{value:.{decimals}f}"


def _headline(comparison: Json) -> str:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in comparison["verdicts"].items())
    said = f"{comparison['experiment']} beside {comparison['published']}: {counts}."
    if below := comparison.get("below_first_stage"):  # not in one that an earlier version kept
        said += f" The published model itself is below its first stage on {', '.join(below)} (nDCG@10)."
    return said


def as_text(comparison: Json) -> str:
    """Return the comparison as a table of fixed-width columns, with the verdict counts last."""
    width = max([46, *(len(row["id"]) + 2 for row in comparison["rows"])])
    lines = [f"{'verdict':8}{'figure':{width}}{'published':>11}{'ours':>11}  {'band':17}note"]
    for row in comparison["rows"]:
        figures = f"{_number(row['published']):>11}{_number(row['ours']):>11}"
        lines.append(f"{row['verdict']:8}{row['id']:{width}}{figures}  {row['band']:17}{row['note']}".rstrip())
    return "\n".join([*lines, _headline(comparison)]) + "\n"


def as_section(comparison: Json) -> str:
    """Return the comparison as a section of the card: counts, rows that are not OK, and the OK ones folded away."""

    def table(rows: Sequence[Json]) -> list[str]:
        head = ["| Verdict | Figure | Published | Here | Band | Note |", "|:---|:---|---:|---:|:---|:---|"]
        return head + [
            f"| {row['verdict']} | {escape(row['id'])} | {_number(row['published'])} | {_number(row['ours'])} "
            f"| {row['band']} | {escape(row['note'])} |"
            for row in rows
        ]

    others = [row for row in comparison["rows"] if row["verdict"] != OK]
    agreeing = [row for row in comparison["rows"] if row["verdict"] == OK]
    lines = ["## Reproduction", "", escape(_headline(comparison)), ""]
    lines += [*table(others), ""] if others else []
    if agreeing:
        lines += ["<details><summary>The figures that are OK</summary>", "", *table(agreeing), "", "</details>", ""]
    return "\n".join(lines)
