"""A run's models, loaded and scored under its one evaluation precision."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.config.learning import ModelConfig
from pipeline.core.allocation import release_memory
from pipeline.engine import model_files
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer
from pipeline.stages.plan import Run


def check_base(run: Run) -> None:
    """Read the starting model's configuration and tokenizer: a mistake in it must not wait until mining is over.

    Raises:
        HubError, ModelError: when they cannot be had, or are of no model that can be trained as configured.
    """
    model_files.planned(run.base.folder, run.config.model)


def load(run: Run, folder: Path, config: ModelConfig) -> Reranker:
    """The model of a folder; a head it lacks is drawn from the run's seed."""
    release_memory()  # of models that were worked with before: a training's is more than a small model's weights
    return model_files.load(folder, config, seed=run.config.seed, attention=run.attention())


def load_saved(run: Run, folder: Path) -> Reranker:
    """A model this run saved: its folder already holds the layers, width and weights it was trained with."""
    return load(run, folder, dataclasses.replace(run.config.model, layers=None, hidden_size=None, random_init=False))


def scorer_of(run: Run, reranker: Reranker) -> PairScorer:
    """A scorer in the one evaluation precision; moves the model to the device."""
    reranker.model.to(run.device)
    budget = run.token_budget(reranker.hidden_size, reranker.layers)
    precision = run.config.evaluation.precision
    return PairScorer(reranker, device=run.device, precision=precision, token_budget=budget)
