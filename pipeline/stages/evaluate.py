"""EVALUATE: score every system once on every reported set."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.learning import ModelConfig
from pipeline.config.set_names import NANO_MEAN
from pipeline.core import artifacts, atomic
from pipeline.core.console import shown
from pipeline.core.fingerprint import fingerprint, slug
from pipeline.core.records import BI_ENCODER, FUSION, TRAINED, UNTRAINED, RerankingSet, fold
from pipeline.data import storage
from pipeline.data.beir import read_beir
from pipeline.data.nano_beir import read as read_nano_beir
from pipeline.engine import model_config, model_kinds
from pipeline.evaluation import evaluator, figures, reranking
from pipeline.evaluation.bi_encoder import BiEncoderScorer
from pipeline.hub import location
from pipeline.stages.models import load, load_saved, scorer_of
from pipeline.stages.plan import VERSIONS, RunPlan
from pipeline.stages.sets import evaluation_set, final_sets, nano_names
from pipeline.stages.stage_folder import is_done, stage

log = logging.getLogger(__name__)


def evaluation_key(run: RunPlan, name: str) -> dict[str, Any]:
    """Return everything that decides what EVALUATE writes for one set; no set evaluated beside it is included."""
    config = run.config.evaluation
    if name in run.collections:
        source: Any = {**run.collections[name].identity, "depth": config.depth}
    elif name in nano_names(run.config) or name == NANO_MEAN:
        source = {**run.nano_beir.identity, "sets": nano_names(run.config) if name == NANO_MEAN else [name]}
    else:
        source = {"mine": fingerprint(run.mine_key)}
    return {
        "stage": "evaluate",
        "version": VERSIONS["evaluate"],
        "set": name,
        "train": fingerprint(run.train_key),
        "precision": config.precision.name,
        "source": source,
        "rivals": {rival: found.identity for rival, found in run.rivals.items()},
        "bi_encoder": config.bi_encoder,
        "fusion": config.fusion,
        "resamples": config.resamples,
    }


def evaluation_folder(run: RunPlan, name: str) -> Path:
    """Return the folder of a set's evaluation."""
    return run.folder / "evaluations" / f"{slug(name)}-{fingerprint(evaluation_key(run, name))}"


def evaluate(run: RunPlan) -> dict[str, Path]:
    """Evaluate every system on every set, with models loaded from disk; return set → folder of its evaluation.

    Models are loaded anew for each set, so that only one is in memory at a time, a finished set stays finished when
    the next one fails, and each set's time and energy are its own. The bi-encoder's files are hashed once.
    """
    folders = {name: evaluation_folder(run, name) for name in final_sets(run)}
    questions: set[str] | None = None
    bi_encoder: BiEncoderScorer | None = None
    for name, folder in folders.items():
        with atomic.locked(folder):
            if not is_done(folder, "evaluate"):
                questions = _trained_on(run) if questions is None else questions
                if run.config.evaluation.bi_encoder and bi_encoder is None:
                    bi_encoder = _bi_encoder(run)
                _evaluate_one(run, name, folder, questions, bi_encoder)
    if nano := nano_names(run.config):
        mean = folders[NANO_MEAN] = evaluation_folder(run, NANO_MEAN)
        with atomic.locked(mean):
            if not is_done(mean, "evaluate"):
                with stage(run, mean, evaluation_key(run, NANO_MEAN)) as (work, _):
                    members = [figures.read(folders[name], name) for name in nano]
                    atomic.write_json(work / "measures.json", figures.mean_of(members, NANO_MEAN))
    return folders


def check_inputs(run: RunPlan) -> None:
    """Check the collections, rivals and NanoBEIR sets, so that a mistake in them is reported before training.

    Raises:
        HubError, DataError, ModelError: naming what is unavailable or broken.
    """
    for name, collection in run.collections.items():
        if not artifacts.is_complete(evaluation_folder(run, name)):
            read_beir(collection.folder, name)
    for rival in run.rivals.values():
        model_kinds.must_be_cross_encoder(rival.folder, key="evaluation.rivals")
    for name in nano_names(run.config):
        if not artifacts.is_complete(evaluation_folder(run, name)):
            read_nano_beir(run.nano_beir.folder, name, run.cache)


def _bi_encoder(run: RunPlan) -> BiEncoderScorer:
    cache, precision = run.cache / "embeddings", run.config.evaluation.precision
    return BiEncoderScorer(run.base.folder, cache, device=run.device, precision=precision)


def _evaluate_one(
    run: RunPlan, name: str, folder: Path, questions: set[str], bi_encoder: BiEncoderScorer | None
) -> None:
    with stage(run, folder, evaluation_key(run, name)) as (work, _):
        reranking_set = evaluation_set(run, name)
        systems = dict(_systems(run, reranking_set, bi_encoder))
        found = evaluator.evaluate(
            reranking_set, systems, resamples=run.config.evaluation.resamples, questions=questions
        )
        evaluator.write(found, work)
        of_set = run.nano_beir if name in nano_names(run.config) else run.collections.get(name)
        location.refuse_changed(run.lock, run.base, *run.rivals.values(), of_set)
    log.info("%-9s %s in %s", "evaluate", name, shown(folder))


def _trained_on(run: RunPlan) -> set[str]:
    """Return the training questions, folded; an empty set if no training step was taken."""
    questions: set[str] = set()
    if atomic.read_json(run.folder / "model" / "training.json")["steps"]:
        for chunk in storage.questions(run.mined_folder):
            questions.update(map(fold, chunk))
    return questions


def _systems(
    run: RunPlan, reranking_set: RerankingSet, bi_encoder: BiEncoderScorer | None
) -> Iterator[tuple[str, reranking.SystemRankings]]:
    """Yield the name and rankings of every system but the first stage, with one model in memory at a time."""
    config = run.config
    untrained = load(run, run.base.folder, config.model)
    yield UNTRAINED, reranking.rerank(reranking_set, scorer_of(run, untrained))
    del untrained
    if bi_encoder is not None:
        found = reranking.rerank(reranking_set, bi_encoder)
        bi_encoder.release()
        yield BI_ENCODER, found
        if config.evaluation.fusion:
            yield FUSION, reranking.fuse(reranking.first_stage(reranking_set), found)
    for rival, located in run.rivals.items():
        length = model_config.own_max_length(located.folder)
        model = load(run, located.folder, ModelConfig(name=rival, path=str(located.folder), max_length=length))
        yield rival, reranking.rerank(reranking_set, scorer_of(run, model))
        del model
    yield TRAINED, reranking.rerank(reranking_set, scorer_of(run, load_saved(run, run.folder / "model")))
