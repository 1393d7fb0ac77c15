"""Messages, before the first training step, about settings whose effect may surprise the user."""

from __future__ import annotations

import logging

from pipeline.config.learning import TrainingConfig
from pipeline.config.schema import Config
from pipeline.engine.modeling import Reranker
from pipeline.engine.steps import TrainingRows
from pipeline.inputs.batching import Plan, warmup_steps
from pipeline.inputs.tokens import NOTABLE_UNKNOWN

log = logging.getLogger(__name__)

NOTABLE_CUT = 0.05
"""Share of rows cut to the training length from which a run logs it."""


def say_cut(config: Config, rows: TrainingRows) -> float:
    """Return the share of rows longer than the training length; log it if it is notable."""
    share = rows.table.cut_share(rows.template, rows.first, rows.second)
    if share >= NOTABLE_CUT and config.training.max_steps != 0:
        log.info(
            "%-9s %.0f %% of the rows are longer than %s.max_length=%d tokens and are cut there "
            "(raising training.max_length and model.max_length keeps more, and takes more time)",
            "train", 100 * share, "model" if config.training.max_length is None else "training", config.training_length,
        )  # fmt: skip
    return share


def say_unknown(reranker: Reranker, rows: TrainingRows) -> float:
    """Return the share of unknown tokens in the texts, from which a model learns nothing; warn if it is notable."""
    share = rows.table.share_of(reranker.tokenizer.unk_token_id)
    if share >= NOTABLE_UNKNOWN:
        log.warning(
            "model.path: %.0f %% of the training texts' tokens are unknown to its tokenizer, so the model cannot tell "
            "them apart. Pass a model for the texts' language: model=custom model.path=<folder or hub id>.",
            100 * share,
        )  # fmt: skip
    return share


def say_steps(config: TrainingConfig, plan: Plan) -> None:
    """Log how many rows the steps see, and which settings have no effect in so few steps."""
    if 0 < plan.steps < plan.steps_per_epoch:
        log.info(
            "%-9s %s of %s rows are used, because training.max_steps=%d (null: all)", "train",
            f"{plan.steps * plan.batch_size:,}", f"{plan.rows:,}", plan.steps,
        )  # fmt: skip
    if config.max_steps is not None and plan.steps < config.max_steps:
        log.warning(
            "training.max_steps=%d is not reached: training.epochs=%d gives %d steps. Raise training.epochs for more",
            config.max_steps, config.epochs, plan.steps,
        )  # fmt: skip
    if 0 < plan.steps == warmup_steps(plan.steps, config.warmup_ratio):
        log.warning(
            "training.warmup_ratio=%s makes all %d steps warm-up, the first at a learning rate of 0",
            config.warmup_ratio, plan.steps,
        )  # fmt: skip
    if config.keep_best and 0 < plan.steps < config.eval_steps:
        log.warning(
            "training.keep_best has nothing to choose from: the run's %d steps end before the first evaluation at "
            "training.eval_steps=%d, and the last step's weights are kept", plan.steps, config.eval_steps,
        )  # fmt: skip
