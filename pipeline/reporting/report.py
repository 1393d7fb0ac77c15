"""Summarise a finished run as one JSON object, and render that object as text. Measures nothing and prints nothing."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.core.console import shown
from pipeline.core.records import AS_RETRIEVED, FIRST_STAGE, HEADLINE, MEASURES, POSITIVES_ADDED, PROTOCOLS, TRAINED
from pipeline.reporting.facts import Facts
from pipeline.reporting.verdicts import (
    not_trained,
    pairs_seen,
    selection,
    selection_sentence,
    systems,
    time_over_processes,
    verdict,
)

Json = dict[str, Any]

_PROTOCOL_WORDS = {
    AS_RETRIEVED: "as retrieved",
    POSITIVES_ADDED: "positives added (no claim against the first stage)",
}


def summary(facts: Facts) -> Json:
    """Return the content of summary.json.

    `measures.<set>.<protocol>.{first_stage,untrained,trained,<rival>}.<measure>` and
    `measures.<set>.<protocol>.differences.<system>.<measure>.{mean,low,high,p}` (a system minus the first stage) are
    each set's measures.json. `pairs_per_second`, `energy_kwh` (kWh) and `emissions_kg` (kg CO2eq) are those of training
    alone; the last two are None if they were not measured. `emissions` has every stage and their sum. `run`, `model`
    and `card` are paths.
    """
    training, provenance = facts.training, facts.provenance
    own = facts.training_emissions
    return {
        "name": facts.config["name"],
        "title": facts.title,
        "base_model": facts.config["model"]["path"],
        "data": facts.config["data"]["name"],
        **facts.paths,
        "measures": facts.measures,
        "verdicts": {name: verdict(name, measures) for name, measures in facts.measures.items()},
        "selection": selection(facts),
        "pairs_per_second": training.get("pairs_per_second"),
        "training_seconds": training.get("seconds"),
        "training": training,
        "energy_kwh": own.get("energy_kwh"),
        "emissions_kg": own.get("emissions_kg"),
        "emissions": {"training": own, "all_stages": facts.all_emissions, "stages": facts.emissions},
        "sizes": {
            "training_rows": facts.rows["size"],
            "queries": {name: measures["queries"] for name, measures in facts.measures.items()},
        },
        "statistics": facts.statistics,
        "command": provenance.get("command"),
        "started_at": provenance.get("started_at"),
        "git": provenance.get("git"),
        "versions": provenance.get("versions"),
        "hardware": provenance.get("hardware"),
    }


def _difference(protocol: Mapping[str, Any], system: str) -> str:
    if system == FIRST_STAGE:
        return ""
    of = protocol["differences"][system][HEADLINE]
    return f"{of['mean']:+.4f} [{of['low']:+.4f}, {of['high']:+.4f}]"


def _block(protocol: Mapping[str, Any]) -> Table:
    """Return the table of one set under one protocol, one row per system."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    # Long names fold over several lines: otherwise rich cuts figures to make room for them.
    table.add_column("ranking", overflow="fold", min_width=len(FIRST_STAGE))
    for label in reversed(MEASURES.values()):
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("nDCG@10 - first stage [95 %]", justify="right", no_wrap=True)
    for system in systems(protocol):
        figures = [f"{protocol[system][measure]:.4f}" for measure in reversed(MEASURES)]
        cells = [Text(cell) for cell in (system.replace("_", " "), *figures, _difference(protocol, system))]
        table.add_row(*cells, style="bold" if system == TRAINED else None)
    return table


def _energy(record: Mapping[str, Any]) -> str:
    processes = record.get("processes", 1)
    pieces = f"; {record['wall_seconds']:,.1f} s over {processes} processes" if processes > 1 else ""
    if "energy_kwh" not in record:
        cause = record.get("error", "emissions.enabled=false")
        return f"not measured ({cause}){pieces}"
    grid = f"grid {record['grid']}"
    if record["country_iso_code"] is None:
        grid += ", no country set"
    text = f"{record['energy_kwh']:.6f} kWh, {record['emissions_kg']:.6f} kg CO2eq ({record['method']}; {grid})"
    missing = record.get("pieces_without_figures", 0)
    return f"{text}{f'; {missing} not measured' if missing else ''}{pieces}"


def _lines(summary: Json) -> Iterable[str]:
    """Yield the lines below the tables, in order."""
    is_trained = summary["training"].get("steps") != 0
    if not is_trained:
        yield not_trained(summary["training"])
    for sentences in summary["verdicts"].values():
        yield from sentences
    if summary["selection"] is not None:
        yield selection_sentence(summary["selection"])
    yield ""
    if is_trained and summary["pairs_per_second"] is not None:
        seen, seconds = pairs_seen(summary["training"]), summary["training_seconds"]
        yield f"speed    {summary['pairs_per_second']:,.1f} pairs/s ({seen:,} pairs, {seconds:,.1f} s with evaluations)"
    if (spent := time_over_processes(summary["training"])) is not None:
        yield f"time     {spent}"
    if summary["training"].get("tracking"):
        yield f"tracking {summary['training']['tracking']}"
    energy = summary["emissions"]
    for stage, record in energy["stages"].items():
        yield f"energy   {stage}: {_energy(record)}"
    if len(energy["stages"]) > 1:
        yield f"energy   all stages: {_energy(energy['all_stages'])}"
    for key in ("model", "card", "run"):
        if key in summary:
            yield f"{key:<8} {shown(Path(summary[key]))}"


def headline(summary: Json) -> str:
    """Return one line with the trained model's and the first stage's figure on each set, as retrieved."""
    found = ((name, of[AS_RETRIEVED]) for name, of in summary["measures"].items())
    return "; ".join(
        f"{name} {MEASURES[HEADLINE]} {of[TRAINED][HEADLINE]:.4f} (first stage {of[FIRST_STAGE][HEADLINE]:.4f})"
        for name, of in found
    )


def closing_table(summary: Json, width: int = 100) -> str:
    """Return a summary as the text that ends a run: a block per set and protocol, verdicts, speed, energy, paths.

    Args:
        summary: what `summary` returned, or summary.json read back; without `card` if the run has none.
        width: columns, at least 80; lines of prose are wrapped, figures and paths never cut.
    """
    out = io.StringIO()
    console = Console(
        file=out,
        width=max(width, 80),
        force_terminal=False,
        color_system=None,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    for name, measures in summary["measures"].items():
        for protocol in PROTOCOLS:
            if protocol in measures:
                words = _PROTOCOL_WORDS[protocol]
                console.print(Text(f"{name}, {measures['queries']} queries, {words}", style="bold"))
                console.print(_block(measures[protocol]))
                console.print()
    for line in _lines(summary):
        console.print(Text(line), soft_wrap=line.startswith(("model ", "card ", "run ")))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
