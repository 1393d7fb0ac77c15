"""The benchmark's jobs as this pipeline does them. Knows nothing of the reference or of how often it is run.

Each job returns its seconds (texts in memory, model loaded → result), what it worked on, and figures by which the two
sides are known to have done the same work.
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
from pipeline.config.machine import Device, RuntimeConfig
from pipeline.core.records import PairRows, RerankingSet, Split
from pipeline.engine import collation, model_config, model_files, modeling
from pipeline.engine.batching import SCORING_WIDTH_STEP, split_into_micro_batches
from pipeline.engine.machine import micro_batch_tokens, resolve_attention
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer
from pipeline.engine.steps import TrainingRows
from pipeline.engine.tokens import TokenTable
from pipeline.engine.training import Hooks, Trainer
from pipeline.evaluation import reranking
from pipeline.mining.miner import mine

Columns = dict[str, list[Any]]

LEARNING_RATE = 2e-5
POS_WEIGHT = 5.0
WARMUP_RATIO = 0.1


class Clock:
    """Seconds since it was made, of the wall and of this process on all its threads."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """(wall, CPU); the second is hardly disturbed by what else the machine does."""
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]


@dataclass(slots=True)
class Done:
    """One job: `pairs` scored or trained on (questions when mining), `tokens` real and `padded` as computed on."""

    seconds: tuple[float, float]
    """By the wall, and of the CPU."""
    pairs: int
    tokens: int | None
    padded: int | None
    same: dict[str, Any]
    """What must agree with the other side."""
    figures: dict[str, float] = field(default_factory=dict)
    """What else was measured, by name."""


def load(folder: Path, dropout: float) -> Reranker:
    """The prepared cross-encoder, as a run loads one."""
    length = model_config.own_max_length(folder)
    config = ModelConfig(name="benchmark", path=str(folder), max_length=length, dropout=dropout)
    return model_files.load(folder, config, seed=SEED, attention=resolve_attention(RuntimeConfig()))


def budget_of(reranker: Reranker, device: torch.device) -> int:
    """Tokens of a micro-batch, as a run computes them."""
    return micro_batch_tokens(RuntimeConfig(device=Device.auto), device, reranker.hidden_size, reranker.layers)


def train(settings: Settings, texts: Columns, model: Path, device: torch.device, precision: Precision) -> Done:
    """One epoch over the rows. Tokenising is part of it, the checkpoint behind the last step is not."""
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
    """The set reranked and measured `times` times by one scorer, which keeps tokens and micro-batches."""
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
    """The evaluation's texts as a set: query q<i> with candidates p<i>-0 … p<i>-29."""
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
    """Real and computed tokens of one pass over the set."""
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
    """What is mined and how; eight dev questions besides, which this pipeline always has."""
    train_rows = PairRows(questions, answers, list(range(1, len(questions) + 1)))
    dev = PairRows([f"dev {text}" for text in questions[:8]], answers[:8], list(range(1, 9)))
    config = MiningConfig(
        retriever=Retriever.embedding, path=str(model), negatives=NEGATIVES, range_max=100,
        absolute_margin=absolute_margin, positive_match=Match.exact, drop_leaks=False,
    )  # fmt: skip
    return Split(train_rows, dev, None, list(dict.fromkeys(corpus))), config


def mine_negatives(settings: Settings, texts: Columns, model: Path, device: torch.device, _: Precision) -> Done:
    """Embed, search and choose."""
    import sentence_transformers  # noqa: F401  # the miner imports it when it first embeds: seconds that are not mining

    questions, answers = texts["question"], texts["answer"]
    split, config = mining_of(questions, answers, answers, model, absolute_margin=0.0)
    clock = Clock()
    mined = mine(split, config, model.parent / "embeddings", device=device.type)
    return Done(clock.read(), len(questions), None, None, {"rows": len(mined.train)})


JOBS: dict[str, Callable[..., Done]] = {"train": train, "evaluate": evaluate, "mine": mine_negatives}
"""Our jobs by name."""
