"""The benchmark's jobs as this pipeline does them. Knows nothing of the reference or of how often a job is run.

Each job returns its seconds (from texts in memory and a loaded model to the result), the amount of work, and values
that show whether both sides did the same work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.benchmark.cases import DEPTH, NEGATIVES, SEED, Settings
from pipeline.config.data import Match, MiningConfig, Retriever
from pipeline.config.learning import ModelConfig, Precision, TrainingConfig
from pipeline.config.runtime import Device, RuntimeConfig
from pipeline.core.records import PairRows, RerankingSet, Split
from pipeline.engine import model_config, model_files, modeling
from pipeline.engine.machine import micro_batch_tokens, resolve_attention
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer
from pipeline.engine.steps import TrainingRows
from pipeline.engine.training import Hooks, Trainer
from pipeline.evaluation import reranking
from pipeline.inputs import collation
from pipeline.inputs.batching import SCORING_WIDTH_STEP, split_into_micro_batches
from pipeline.inputs.tokens import TokenTable
from pipeline.mining.miner import mine

Columns = dict[str, list[Any]]

LEARNING_RATE = 2e-5
POS_WEIGHT = 5.0
WARMUP_RATIO = 0.1


class Clock:
    """Measures the seconds since its construction: wall time, and CPU time of all this process's threads."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return (wall, CPU) seconds; other load on the machine hardly changes the CPU seconds."""
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]


@dataclass(slots=True)
class Done:
    """Outcome of a job: `pairs` scored or trained on (questions when mining), real `tokens`, `padded` with padding."""

    seconds: tuple[float, float]
    """Wall and CPU seconds."""
    pairs: int
    tokens: int | None
    padded: int | None
    same: dict[str, Any]
    """Values that must agree with the other side's."""
    figures: dict[str, float] = field(default_factory=dict)
    """Other measurements, by name."""


def load(folder: Path, dropout: float) -> Reranker:
    """Load the prepared cross-encoder as a run does."""
    length = model_config.own_max_length(folder)
    config = ModelConfig(name="benchmark", path=str(folder), max_length=length, dropout=dropout)
    return model_files.load(folder, config, seed=SEED, attention=resolve_attention(RuntimeConfig()))


def budget_of(reranker: Reranker, device: torch.device) -> int:
    """Return the token budget of a micro-batch, computed as in a run."""
    return micro_batch_tokens(RuntimeConfig(device=Device.auto), device, reranker.hidden_size, reranker.layers)


def train(settings: Settings, texts: Columns, model: Path, device: torch.device, precision: Precision) -> Done:
    """Train one epoch over the rows. The time includes tokenising, but not the checkpoint after the last step."""
    reranker = load(model, settings.dropout)
    reranker.model.to(device)
    ended: list[tuple[float, float]] = []
    clock = Clock()
    data = _rows(reranker, texts)
    config = TrainingConfig(
        batch_size=settings.batch_size, learning_rate=LEARNING_RATE, warmup_ratio=WARMUP_RATIO,
        pos_weight=POS_WEIGHT, logging_steps=1,
    )  # fmt: skip
    trainer = Trainer(
        reranker, data, config, seed=SEED, device=device, precision=precision,
        token_budget=budget_of(reranker, device), folder=model.parent / "checkpoints", identity={},
        hooks=Hooks(on_row=lambda rows: ended.append(clock.read())),
    )  # fmt: skip
    trainer.run()
    logged = [row for row in trainer.state.rows if row["kind"] == "train"]
    tokens = sum(row["tokens"] for row in logged)
    padded = round(sum(row["tokens"] / (1 - row["padding_share"]) for row in logged))
    same = {"losses": [row["loss"] for row in logged]}
    return Done(ended[-1], len(data.label), tokens, padded, same)


def _rows(reranker: Reranker, texts: Columns) -> TrainingRows:
    questions = {text: number for number, text in enumerate(dict.fromkeys(texts["question"]))}
    answers = {text: number + len(questions) for number, text in enumerate(dict.fromkeys(texts["answer"]))}
    return TrainingRows(
        table=TokenTable.build([*questions, *answers], reranker.tokenizer, reranker.max_length),
        template=collation.checked_template(reranker.tokenizer, reranker.max_length),
        first=np.array([questions[text] for text in texts["question"]]),
        second=np.array([answers[text] for text in texts["answer"]]),
        label=np.array(texts["label"], np.float32),
    )


def evaluate(settings: Settings, texts: Columns, model: Path, device: torch.device, precision: Precision) -> Done:
    """Rerank and measure the set `settings.times` times with one scorer, which keeps tokens and micro-batches."""
    reranker = load(model, 0.0)
    reranker.model.to(device)
    asked = reranking_set(texts)
    clock = Clock()
    scorer = PairScorer(reranker, device=device, precision=precision, token_budget=budget_of(reranker, device))
    for _ in range(settings.times):
        measures = reranking.mean_measures(asked, scorer)
    seconds = clock.read()
    tokens, padded = _cost(reranker, texts, budget_of(reranker, device), precision)
    pairs = len(texts["query"]) * DEPTH * settings.times
    return Done(seconds, pairs, tokens * settings.times, padded * settings.times, {"measures": measures})


def reranking_set(texts: Columns) -> RerankingSet:
    """Return the evaluation's texts as a set: query q<i> with candidates p<i>-0 … p<i>-29."""
    ids = [[f"p{query}-{place}" for place in range(DEPTH)] for query in range(len(texts["query"]))]
    names = [f"q{query}" for query in range(len(texts["query"]))]
    return RerankingSet(
        name="benchmark",
        queries=dict(zip(names, texts["query"], strict=True)),
        passages={
            passage: text
            for row, documents in zip(ids, texts["documents"], strict=True)
            for passage, text in zip(row, documents, strict=True)
        },
        candidates=dict(zip(names, ids, strict=True)),
        qrels={name: {row[positive]: 1} for name, row, positive in zip(names, ids, texts["positive"], strict=True)},
    )


def _cost(reranker: Reranker, texts: Columns, budget: int, precision: Precision) -> tuple[int, int]:
    """Count the real and the computed tokens of one pass over the set."""
    passages = [text for documents in texts["documents"] for text in documents]
    table = TokenTable.build([*texts["query"], *passages], reranker.tokenizer, reranker.max_length)
    queries = len(texts["query"])
    first, second = np.repeat(np.arange(queries), DEPTH), np.arange(len(passages)) + queries
    template = collation.checked_template(reranker.tokenizer, reranker.max_length)
    lengths = table.pair_lengths(template, first, second)
    computed = (
        modeling.computed_tokens(reranker.collate(table, template, first[group], second[group], SCORING_WIDTH_STEP))
        for group in split_into_micro_batches(
            lengths, budget, reranker.lanes(), is_padded=reranker.is_padded(precision)
        )
    )
    return int(lengths.sum()), sum(computed)


def mining_of(
    questions: list[str], answers: list[str], corpus: list[str], model: Path, *, absolute_margin: float | None
) -> tuple[Split, MiningConfig]:
    """Return the rows to mine and the configuration, with eight dev questions, which this pipeline always needs."""
    train_rows = PairRows(questions, answers, list(range(1, len(questions) + 1)))
    dev = PairRows([f"dev {text}" for text in questions[:8]], answers[:8], list(range(1, 9)))
    config = MiningConfig(
        retriever=Retriever.embedding, path=str(model), negatives=NEGATIVES, range_max=100,
        absolute_margin=absolute_margin, positive_match=Match.exact, drop_leaks=False,
    )  # fmt: skip
    return Split(train_rows, dev, None, list(dict.fromkeys(corpus))), config


def mine_negatives(settings: Settings, texts: Columns, model: Path, device: torch.device, _: Precision) -> Done:
    """Embed, search and choose negatives."""
    import sentence_transformers  # noqa: F401  # the miner imports it when it first embeds: seconds that are not mining

    questions, answers = texts["question"], texts["answer"]
    split, config = mining_of(questions, answers, answers, model, absolute_margin=0.0)
    clock = Clock()
    mined = mine(split, config, model.parent / "embeddings", device=device.type)
    return Done(clock.read(), len(questions), None, None, {"rows": len(mined.train)})


JOBS: dict[str, Callable[..., Done]] = {"train": train, "evaluate": evaluate, "mine": mine_negatives}
"""Our jobs by name."""
