"""Small random cross-encoders and training rows: real tokenizers and models, milliseconds per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hub_fixtures import bert_tiny, sentences

from pipeline.config.learning import ModelConfig, Precision, TrainingConfig
from pipeline.config.runtime import Attention
from pipeline.engine import model_files
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer
from pipeline.engine.steps import TrainingRows
from pipeline.engine.training import Hooks, Trainer
from pipeline.inputs import collation
from pipeline.inputs.tokens import TokenTable

CPU = torch.device("cpu")
BUDGET = 256
TIMES = {"pairs_per_second", "tokens_per_second", "train_seconds", "seconds"}
"""Keys of a training log's rows that differ from run to run."""

Row = dict[str, Any]


def model_config(folder: Path, **values: Any) -> ModelConfig:
    return ModelConfig(**{"name": "tiny", "path": str(folder), "max_length": 64, "dropout": 0.0, **values})


def tiny(folder: Path, seed: int = 12, attention: Attention = Attention.varlen, **values: Any) -> Reranker:
    """Return a BERT of 2 layers and 32 units with a head drawn from `seed`; its base is written to `folder` once."""
    if not (folder / "config.json").exists():
        bert_tiny(folder)
    return model_files.load(folder, model_config(folder, **values), seed=seed, attention=attention)


def lively(reranker: Reranker) -> Reranker:
    """Enlarge the weights, so that logits differ between pairs by tenths and not in the fifth digit."""
    with torch.no_grad():
        for name, parameter in reranker.model.named_parameters():
            if parameter.ndim == 2 and "embeddings" not in name:
                parameter.mul_(8)
    return reranker


PROBES = [(question, answer) for question, answer in sentences(12)] + [("", "river"), ("river " * 90, "stone " * 90)]
"""Pairs to score, among them one with a blank question and one that is truncated at any maximum length."""


def scores(reranker: Reranker, precision: Precision = Precision.fp32) -> Any:
    """Return the logits of `PROBES`."""
    return PairScorer(reranker, device=CPU, precision=precision, token_budget=BUDGET).score(PROBES)


def labelled(count: int) -> list[tuple[str, str, float]]:
    """Return (question, passage, label) rows of uneven length: a third positives, the rest with another's answer."""
    pairs = sentences(count, seed=3)
    return [
        (question, answer if i % 3 == 0 else pairs[(i * 7 + 1) % count][1], float(i % 3 == 0))
        for i, (question, answer) in enumerate(pairs)
    ]


def training_rows(reranker: Reranker, rows: Sequence[tuple[str, str, float]]) -> TrainingRows:
    texts = [question for question, _, _ in rows] + [passage for _, passage, _ in rows]
    return TrainingRows(
        table=TokenTable.build(texts, reranker.tokenizer, reranker.max_length),
        template=collation.checked_template(reranker.tokenizer, reranker.max_length),
        first=np.arange(len(rows)),
        second=np.arange(len(rows)) + len(rows),
        label=np.array([label for _, _, label in rows], np.float32),
    )


def training_config(**values: Any) -> TrainingConfig:
    chosen = {"batch_size": 16, "learning_rate": 1e-3, "pos_weight": 5.0, "logging_steps": 1, **values}
    return TrainingConfig(**chosen)


def trainer_of(
    reranker: Reranker, rows: TrainingRows, config: TrainingConfig, folder: Path, hooks: Hooks | None = None,
    budget: int = BUDGET, precision: Precision = Precision.fp32,
) -> Trainer:  # fmt: skip
    return Trainer(
        reranker, rows, config, seed=12, device=CPU, precision=precision, token_budget=budget, folder=folder,
        identity={"key": "test"}, hooks=hooks or Hooks(),
    )  # fmt: skip


def rows_into(target: list[Row]) -> Callable[[list[Row]], None]:
    """Return an `on_row` hook that keeps the log's rows in a list."""

    def keep(rows: list[Row]) -> None:
        target[:] = rows

    return keep


def without_times(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def weights(reranker: Reranker) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in reranker.model.state_dict().items()}
