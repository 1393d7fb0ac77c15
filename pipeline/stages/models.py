"""Load a run's models, and score with them at its evaluation precision."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.config.learning import ModelConfig
from pipeline.core.allocation import release_memory
from pipeline.engine import model_files
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer
from pipeline.stages.plan import RunPlan


def check_base(run: RunPlan) -> None:
    """Read the base model's configuration and tokenizer, so that a mistake in them is reported before mining.

    Raises:
        HubError, ModelError: when they are unavailable, or the model cannot be trained as configured.
    """
    model_files.planned(run.base.folder, run.config.model)


def load(run: RunPlan, folder: Path, config: ModelConfig) -> Reranker:
    """Load the model in a folder; if it has no head, draw one from the run's seed."""
    release_memory()  # freed by earlier models: what training leaves exceeds a small model's weights
    return model_files.load(folder, config, seed=run.config.seed, attention=run.attention())


def load_saved(run: RunPlan, folder: Path) -> Reranker:
    """Load a model that this run saved: its folder already holds the trained layers, width and weights."""
    return load(run, folder, dataclasses.replace(run.config.model, layers=None, hidden_size=None, random_init=False))


def scorer_of(run: RunPlan, reranker: Reranker) -> PairScorer:
    """Move the model to the device and return a scorer at the evaluation precision."""
    reranker.model.to(run.device)
    budget = run.token_budget(reranker.hidden_size, reranker.layers)
    precision = run.config.evaluation.precision
    return PairScorer(reranker, device=run.device, precision=precision, token_budget=budget)
