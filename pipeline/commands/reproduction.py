"""Reproduce the published figures: of a finished run, of the first stage alone, of published weights.

Brings what was measured to `comparison`. The stages mine; nothing here trains.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from pipeline.commands.run_folder import find_run
from pipeline.config.asked import FIRST, Reproduction
from pipeline.config.schema import Config
from pipeline.config.sets import NANO_MEAN
from pipeline.core import atomic
from pipeline.core.console import shown
from pipeline.core.errors import ArtifactError, ConfigError, must
from pipeline.core.fingerprint import slug
from pipeline.core.records import TRAINED, RerankingSet
from pipeline.engine import model_config
from pipeline.evaluation import evaluator, figures, reranking
from pipeline.hub import location
from pipeline.reporting import comparison
from pipeline.reporting.comparison import FAIL, compare
from pipeline.reporting.run_figures import Measured, add_set, measured_run, reference_map
from pipeline.stages.mine import mine
from pipeline.stages.models import load, scorer_of
from pipeline.stages.plan import Run
from pipeline.stages.sets import evaluation_set, final_sets, nano_names

log = logging.getLogger(__name__)


def reproduce(asked: Reproduction, config: Config) -> None:
    """Compare, keep the comparison as JSON, and log it as text.

    A run's comparison lies in the run's folder and stands in its README.md; the others lie in outputs/reports.

    Raises:
        ArtifactError: when a figure fails, after the table was logged; and for an unfinished run.
    """
    facts = None if asked.facts is None else Path(asked.facts)
    if asked.run is not None:
        folder = find_run(asked.run, config.outputs_dir)
        found = compare(measured_run(folder), path=facts)
        target = comparison.keep(folder, found)
        atomic.write_text(folder / "README.md", comparison.card_of(folder))
    else:
        run = Run(config)
        comparison.published(config.name, facts)  # refused before any work
        if asked.stage is not None:
            found, name = compare(first_stage(run), ("rows", "first_stage"), facts), FIRST
        else:
            path = str(asked.weights)
            found = compare(published_weights(run, path, asked.weights_revision), ("first_stage", "final"), facts)
            name = slug(path)
        target = run.outputs / "reports" / f"reproduce-{slug(config.name)}-{name}.json"
        atomic.write_json(target, found)
    log.info("\n%s\nkept in %s", comparison.as_text(found), shown(target))
    if failed := found["verdicts"][FAIL]:
        got = f"{failed} of {len(found['rows'])} outside"
        remedy = "The rows marked FAIL above say which; a pinned revision that moved or another recipe explains most."
        raise ArtifactError(must("every figure", "lie within its band", got, remedy))


def _sets(run: Run) -> dict[str, RerankingSet]:
    return {name: evaluation_set(run, name) for name in final_sets(run)}


def first_stage(run: Run) -> Measured:
    """Row count and first-stage figures of a configuration, mined now where they are not yet."""
    mine(run)
    statistics = atomic.read_json(run.mined_folder / "statistics.json")
    measured = _evaluated(run, {name: {} for name in final_sets(run)}, _sets(run))
    measured.counts = {name: statistics[name] for name in ("rows", "positives", "negatives")}
    return measured


def published_weights(run: Run, path: str, revision: str | None) -> Measured:
    """Figures of somebody's weights on the sets of a configuration; the first stage is mined, nothing is trained.

    Raises:
        HubError, ModelError: when the weights cannot be had, or are no cross-encoder.
    """
    located = location.locate(
        path, revision, kind="model", lock=run.lock, key="weights", refresh=run.config.hub.refresh
    )
    log.info("weights     %s", located.description)
    mine(run)
    config = dataclasses.replace(
        run.config.model, layers=None, hidden_size=None, random_init=False, dropout=None,
        max_length=min(run.config.model.max_length, model_config.own_max_length(located.folder)),
    )  # fmt: skip
    reranker = load(run, located.folder, config)
    if not reranker.head_was_saved:
        remedy = "Name published weights of this recipe, or a run's model/ folder."
        raise ConfigError(must("weights", "be a trained cross-encoder", f"{path}, a base model", remedy))
    scorer = scorer_of(run, reranker)
    sets = _sets(run)
    return _evaluated(run, {name: {TRAINED: reranking.rerank(of, scorer)} for name, of in sets.items()}, sets)


def _evaluated(run: Run, systems: dict[str, dict[str, Any]], sets: dict[str, RerankingSet]) -> Measured:
    """Every set's figures and the NanoBEIR mean's."""
    measured, resamples = Measured(run.config.name), run.config.evaluation.resamples
    done = {name: evaluator.evaluate(of, systems[name], resamples=resamples) for name, of in sets.items()}
    for name, found in done.items():
        add_set(measured, name, found.measures_json())
        measured.base_map[name] = reference_map(sets[name].candidates, {q: sets[name].qrels[q] for q in found.queries})
    if members := nano_names(run.config):
        add_set(measured, NANO_MEAN, figures.mean_of([done[name].scored() for name in members], NANO_MEAN))
        measured.base_map[NANO_MEAN] = sum(measured.base_map[name] for name in members) / len(members)
    return measured
