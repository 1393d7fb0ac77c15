"""Reproduce the published figures with a finished run, with the first stage alone, or with published weights.

Passes what was measured to `comparison`. May mine, by the stage; never trains.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.commands.run_folder import find_run
from pipeline.config import recorded
from pipeline.config.command_arguments import FIRST, Reproduction
from pipeline.config.compose import composed
from pipeline.config.schema import Config
from pipeline.config.set_names import NANO_MEAN
from pipeline.core import atomic
from pipeline.core.console import number_of, shown
from pipeline.core.errors import ArtifactError, ConfigError, must
from pipeline.core.fingerprint import plain, slug
from pipeline.core.records import TRAINED, RerankingSet
from pipeline.engine import model_config
from pipeline.evaluation import evaluator, figures, reranking
from pipeline.hub import location
from pipeline.reporting.comparison import FAIL, as_text, compare, published
from pipeline.reporting.kept_comparison import card_of, keep
from pipeline.reporting.run_figures import Measured, add_set, measured_run, reference_map
from pipeline.stages.mine import mine
from pipeline.stages.models import load, scorer_of
from pipeline.stages.plan import OF_THE_CARD, RunPlan
from pipeline.stages.sets import evaluation_set, final_sets, nano_names

log = logging.getLogger(__name__)

NOT_OF_FIGURES = {"name", *OF_THE_CARD, "activation", "keep_checkpoints", "rivals", "collections", "depth",
                  "bi_encoder", "fusion"}  # fmt: skip
"""Keys of a configuration's sections on which no published figure depends."""

PARTS = ("seed", "data", "mining", "model", "training", "evaluation")
"""Keys and sections of a configuration on which a run's figures depend."""

PARTS_MINED = ("data", "mining", "evaluation")
"""Those on which the first stage depends; with given weights, `model.max_length` is added."""


def reproduce(asked: Reproduction, config: Config) -> None:
    """Compare with the published figures, write the comparison as JSON, and log it as text.

    A run's comparison goes to the run's folder and into its README.md; the others go to outputs/reports.

    Raises:
        ArtifactError: when a figure fails, after the table is logged; or when the run is not finished.
    """
    facts = None if asked.facts is None else Path(asked.facts)
    parts: tuple[str, ...] = PARTS if asked.run is not None else PARTS_MINED
    if asked.run is not None:
        folder = find_run(asked.run, config.outputs_dir)
        found = compare(measured_run(folder), path=facts)
        target, card = keep(folder, found), folder / "README.md"
        atomic.write_text(card, card_of(folder))
        kept = f"{shown(target)}, and in the section Reproduction of {shown(card)}"
        values = recorded.values_of(folder / "model")
    else:
        run, values = RunPlan(config), plain(config)
        published(config.name, facts)  # refuse an unknown experiment before any work
        if asked.stage is not None:
            found, name = compare(first_stage(run), ("rows", "first_stage"), facts), FIRST
        else:
            path = str(asked.weights)
            found = compare(published_weights(run, path, asked.weights_revision), ("first_stage", "final"), facts)
            name, parts = slug(path), (*PARTS_MINED, "model.max_length")  # its other keys are not the weights'
        target = run.outputs / "reports" / f"reproduce-{slug(config.name)}-{name}.json"
        atomic.write_json(target, found)
        kept = shown(target)
    log.info("\n%s\nkept in %s", as_text(found), kept)
    if failed := found["verdicts"][FAIL]:
        got = f"{failed} of {len(found['rows'])} outside"
        remedy = f"See the rows marked FAIL above; {_likely_cause(found['experiment'], values, parts)}."
        raise ArtifactError(must("every figure", "lie within its band", got, remedy))


def _likely_cause(experiment: str, values: Mapping[str, Any], parts: Sequence[str]) -> str:
    """Return how a configuration (as plain data) differs from an experiment's recipe in `parts` (keys or sections)."""
    try:
        recipe = plain(composed([f"experiment={experiment}"]))
    except ConfigError:  # a user's own facts, of no experiment in conf/
        return "the usual causes are a revision that moved and a different recipe"
    keys = ["seed"] if "seed" in parts and values.get("seed") != recipe["seed"] else []
    for section in ("data", "mining", "model", "training", "evaluation"):
        of = values.get(section, recipe[section])
        # What was resolved from `auto` depends on the machine.
        keys += [
            f"{section}.{name}" for name, value in recipe[section].items()
            if (section in parts or f"{section}.{name}" in parts)
            and name not in NOT_OF_FIGURES and value != "auto" and of.get(name) != value
        ]  # fmt: skip
    if not keys:
        return "the configuration is the recipe's, so the usual cause is a revision that moved"
    more = f" and {number_of(len(keys) - 5, 'more key')}" if len(keys) > 5 else ""
    differs = f"the configuration differs from the recipe in {', '.join(keys[:5])}{more}"
    return f"{differs}. That, or a revision that moved, may be the cause"


def _sets(run: RunPlan) -> dict[str, RerankingSet]:
    return {name: evaluation_set(run, name) for name in final_sets(run)}


def first_stage(run: RunPlan) -> Measured:
    """Return a configuration's row counts and first-stage figures, mining first if that is not done."""
    mine(run)
    statistics = atomic.read_json(run.mined_folder / "statistics.json")
    measured = _evaluated(run, {name: {} for name in final_sets(run)}, _sets(run))
    measured.counts = {name: statistics[name] for name in ("rows", "positives", "negatives")}
    return measured


def published_weights(run: RunPlan, path: str, revision: str | None) -> Measured:
    """Return the figures of given weights on a configuration's sets; mine the first stage, train nothing.

    Raises:
        HubError, ModelError: when the weights are unavailable or cannot be loaded.
        ConfigError: when they are not a trained cross-encoder.
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


def _evaluated(run: RunPlan, systems: dict[str, dict[str, Any]], sets: dict[str, RerankingSet]) -> Measured:
    """Return the figures of every set and of the NanoBEIR mean."""
    measured, resamples = Measured(run.config.name), run.config.evaluation.resamples
    done = {name: evaluator.evaluate(of, systems[name], resamples=resamples) for name, of in sets.items()}
    for name, found in done.items():
        add_set(measured, name, found.measures_json())
        measured.base_map[name] = reference_map(sets[name].candidates, {q: sets[name].qrels[q] for q in found.queries})
    if members := nano_names(run.config):
        add_set(measured, NANO_MEAN, figures.mean_of([done[name].scored() for name in members], NANO_MEAN))
        measured.base_map[NANO_MEAN] = sum(measured.base_map[name] for name in members) / len(members)
    return measured
