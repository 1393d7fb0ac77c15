"""The benchmark's jobs as sentence-transformers does them: its trainer, reranking evaluator and miner, unchanged.

Both sides train on the same rows in the same steps: the trainer's batch sampler follows this pipeline's row order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.benchmark.cases import DEPTH, NEGATIVES, SEED, Settings
from pipeline.benchmark.ours import LEARNING_RATE, POS_WEIGHT, WARMUP_RATIO, Clock, Columns, Done
from pipeline.config.learning import Precision
from pipeline.core.records import MEASURES
from pipeline.inputs.batching import Plan, warmup_steps


class Steps:
    """Batch sampler for torch's DataLoader that yields the plan's batches."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.batch_size, self.drop_last = plan.batch_size, False

    def __len__(self) -> int:
        return self._plan.steps

    def __iter__(self) -> Iterator[list[int]]:
        return (rows.tolist() for rows in self._plan.batches())


def steps_of(plan: Plan, dataset: Any, **options: Any) -> Steps:
    """Return `Steps`, called as the trainer calls a `batch_sampler`; at module level, because checkpoints pickle it."""
    return Steps(plan)


class _Tokens:
    """Counts the tokens that a model's `preprocess` returns, without and with padding."""

    def __init__(self, model: Any) -> None:
        self.real = self.padded = 0
        inner = model.preprocess

        def counted(*arguments: Any, **options: Any) -> Any:
            features = inner(*arguments, **options)
            self.real += int(features["attention_mask"].sum())
            self.padded += features["attention_mask"].numel()
            return features

        model.preprocess = counted


def load(folder: Path, setting: dict[str, Any], device: torch.device) -> Any:
    """Load a saved cross-encoder with a setting's attention."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(
        str(folder), device=device.type, model_kwargs={"attn_implementation": setting["attention"]},
        local_files_only=True,
    )  # fmt: skip


def train(
    settings: Settings, setting: dict[str, Any], texts: Columns, model: Path, device: torch.device, precision: Precision
) -> Done:
    """Train one epoch over the rows with `CrossEncoderTrainer`; training alone is timed, and writes no checkpoints."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    encoder = load(model, setting, device)
    counted = _Tokens(encoder)
    plan = Plan(len(texts["label"]), settings.batch_size, 1, SEED)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(model.parent / "reference"), num_train_epochs=1, seed=SEED, save_strategy="no",
        per_device_train_batch_size=settings.batch_size, learning_rate=LEARNING_RATE,
        warmup_steps=warmup_steps(plan.steps, WARMUP_RATIO), bf16=precision is Precision.bf16, logging_steps=1,
        report_to="none", disable_tqdm=True, use_cpu=device.type == "cpu",
        batch_sampler=partial(steps_of, plan),
    )  # fmt: skip
    loss = BinaryCrossEntropyLoss(encoder, pos_weight=torch.tensor(POS_WEIGHT, device=device))
    trainer = CrossEncoderTrainer(model=encoder, args=arguments, train_dataset=Dataset.from_dict(texts), loss=loss)
    counted.real = counted.padded = 0
    clock = Clock()
    trainer.train()
    seconds = clock.read()
    same = {"losses": [row["loss"] for row in trainer.state.log_history if "loss" in row]}
    return Done(seconds, len(texts["label"]), counted.real, counted.padded, same)


def evaluate(
    settings: Settings, setting: dict[str, Any], texts: Columns, model: Path, device: torch.device, precision: Precision
) -> Done:
    """Rerank and measure the set `settings.times` times with `CrossEncoderRerankingEvaluator`.

    Figures: the seconds of the first evaluation and of the quickest later one.
    """
    encoder = load(model, setting, device)
    counted = _Tokens(encoder)
    samples = [
        {"query": query, "positive": [documents[positive]], "documents": documents}
        for query, documents, positive in zip(texts["query"], texts["documents"], texts["positive"], strict=True)
    ]
    evaluator = evaluator_of(samples, setting)
    clock, ends = Clock(), [0.0]
    with autocast(device, precision):
        for _ in range(settings.times):
            found = evaluator(encoder)
            ends.append(clock.read()[0])
    seconds = clock.read()
    measures = {name: float(found[name]) for name in MEASURES}
    pairs = len(samples) * DEPTH * settings.times
    figures = {}
    if settings.times > 1:
        figures = {"first_seconds": ends[1], "later_seconds": float(np.diff(ends)[1:].min())}
    return Done(seconds, pairs, counted.real, counted.padded, {"measures": measures}, figures)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the autocast context in which a model scores."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision is Precision.bf16)


def evaluator_of(samples: list[dict[str, Any]], setting: dict[str, Any]) -> Any:
    """Return the reranking evaluator of these samples; it adds no positives that the first stage has not found."""
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    return CrossEncoderRerankingEvaluator(
        samples=samples, batch_size=setting["batch_size"], always_rerank_positives=False, write_csv=False
    )


def mine_negatives(
    settings: Settings, setting: dict[str, Any], texts: Columns, model: Path, device: torch.device, _: Precision
) -> Done:
    """Run `mine_hard_negatives` over the questions with the published recipe's arguments."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    encoder = SentenceTransformer(str(model), device=device.type, local_files_only=True)
    dataset = Dataset.from_dict(texts)
    clock = Clock()
    mined = mine_hard_negatives(
        dataset, encoder, anchor_column_name="question", positive_column_name="answer", num_negatives=NEGATIVES,
        range_min=0, range_max=100, absolute_margin=0, sampling_strategy="top", batch_size=4096,
        output_format="labeled-pair", use_faiss=setting["use_faiss"], verbose=False,
    )  # fmt: skip
    return Done(clock.read(), len(dataset), None, None, {"rows": len(mined)})


JOBS: dict[str, Callable[..., Done]] = {"train": train, "evaluate": evaluate, "mine": mine_negatives}
"""The reference's jobs by name."""
