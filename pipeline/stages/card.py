"""CARD: a run's model card, its summary and the closing table, which ends a run without a card too."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.config.set_names import NANO_MEAN
from pipeline.core import artifacts, atomic
from pipeline.core.console import shown
from pipeline.core.fingerprint import fingerprint, plain
from pipeline.data import storage
from pipeline.reporting import model_card, report
from pipeline.reporting.facts import Facts, collect
from pipeline.reporting.kept_comparison import card_of
from pipeline.reporting.samples import EXAMPLE_ROWS
from pipeline.stages.evaluate import evaluation_folder
from pipeline.stages.plan import OF_THE_CARD, VERSIONS, RunPlan
from pipeline.stages.sets import final_sets
from pipeline.stages.stage_folder import is_done, stage
from pipeline.telemetry.energy_records import add

log = logging.getLogger(__name__)


def card(run: RunPlan) -> Path:
    """Write card/ with README.md and summary.json, and copies of both in the run's folder; log the closing table."""
    evaluations = _evaluations(run)
    folder = run.folder / "card"
    key = {
        "stage": "card",
        "version": VERSIONS["card"],
        "name": run.config.name,
        "model": {key: getattr(run.config.model, key) for key in OF_THE_CARD},
        "data": run.config.data.title,
        "train": fingerprint(run.train_key),
        "evaluations": {name: path.name for name, path in evaluations.items()},
    }
    with atomic.locked(folder):
        there = (artifacts.manifest_of(folder) or {}).get("fingerprint") if artifacts.is_complete(folder) else None
        if there not in (None, fingerprint(key)) or not is_done(folder, "card"):
            with stage(run, folder, key) as (work, pieces):
                facts = _facts(run, evaluations)
                if pieces.before:  # earlier processes' energy; this one's is known only once the card is written
                    facts.emissions["card"] = {**add(pieces.before), **pieces.facts()}
                atomic.write_text(work / "README.md", model_card.render(facts))
                atomic.write_json(work / "summary.json", report.summary(facts))
            log.info("%-9s %s", "card", shown(run.folder / "README.md"))
        # Copies for people to find. No manifest names them, so they are rewritten if they differ from their originals.
        atomic.write_if_changed(run.folder / "README.md", card_of(run.folder).encode("utf-8", "backslashreplace"))
        atomic.write_if_changed(run.folder / "summary.json", (folder / "summary.json").read_bytes())
    log.info("\n%s", report.closing_table(atomic.read_json(folder / "summary.json")))
    return folder


def log_without_card(run: RunPlan) -> None:
    """Log the closing table of an evaluated run, without the path of a card."""
    summary = report.summary(_facts(run, _evaluations(run)))
    del summary["card"]
    log.info("\n%s", report.closing_table(summary))


def _evaluations(run: RunPlan) -> dict[str, Path]:
    """Return set → folder of its evaluation, in the order of the tables."""
    evaluations = {name: evaluation_folder(run, name) for name in final_sets(run)}
    if run.config.evaluation.nano_beir:
        evaluations[NANO_MEAN] = evaluation_folder(run, NANO_MEAN)
    return evaluations


def _facts(run: RunPlan, evaluations: dict[str, Path]) -> Facts:
    mined = run.mined_folder
    head, size = storage.read_head(mined, EXAMPLE_ROWS), len(storage.read_indices(mined))
    return collect(
        run.folder, mined, evaluations, plain(run.config), head, size,
        base_id=run.base.identity.get("hub"),
        data_id=None if run.source is None else run.source.identity.get("hub"),
    )  # fmt: skip
