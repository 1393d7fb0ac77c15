"""One point of a growth curve, as a process with a peak memory of its own: `python -m pipeline.benchmark.growth_point`.

Reads the texts that `growth` wrote. Points do not depend on each other, except that training reads the table that the
tokenise point of the same size wrote.
"""

from __future__ import annotations

import itertools
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch

from pipeline.benchmark import ours
from pipeline.benchmark.cases import DEPTH, NEGATIVES, SEED
from pipeline.config.learning import Precision, TrainingConfig
from pipeline.config.runtime import RuntimeConfig
from pipeline.core import atomic
from pipeline.data.storage import CHUNK
from pipeline.engine.machine import resolve_device, resolve_precision
from pipeline.engine.scoring import PairScorer
from pipeline.engine.steps import TrainingRows
from pipeline.engine.training import Hooks, Trainer
from pipeline.evaluation import reranking
from pipeline.inputs import collation
from pipeline.inputs.tokens import TokenTable
from pipeline.mining.miner import mine

QUESTIONS = 10_000
"""Questions to mine."""

BATCH, STEPS = 64, 15
"""Batch size and steps of training: the smallest size, 1,000 rows, has 15 full batches."""


def read_lines(path: Path, count: int) -> Iterator[list[str]]:
    """Yield the first `count` lines in chunks."""
    with path.open() as stream:
        left = map(str.rstrip, itertools.islice(stream, count))
        while chunk := list(itertools.islice(left, CHUNK)):
            yield chunk


def texts(path: Path, count: int) -> list[str]:
    """Return the first `count` lines."""
    return list(itertools.chain.from_iterable(read_lines(path, count)))


def tokenise(rows: int, work: Path, folder: Path) -> Callable[[], float]:
    """Return a job that tokenises the questions, then the passages, of `rows` rows into a table on disk."""
    reranker = ours.load(work / "model", 0.0)
    count = -(-rows // (NEGATIVES + 1))

    def run() -> float:
        clock = ours.Clock()
        chunks = itertools.chain(read_lines(work / "questions", count), read_lines(work / "passages", count))
        TokenTable.write(chunks, reranker.tokenizer, reranker.max_length, folder)
        return clock.read()[0]

    return run


def train(rows: int, work: Path, folder: Path) -> Callable[[], float]:
    """Return a job that trains on the memory-mapped table and rows, as a run does (`stages.train.rows_of`)."""
    device = resolve_device(RuntimeConfig())
    precision, _ = resolve_precision(Precision.auto, device)
    reranker = ours.load(work / "model", 0.1)
    reranker.model.to(device)
    table = TokenTable.open(work / f"tokenise-{rows}")
    count = len(table) // 2
    _write_rows(rows, count, folder)
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("question", "passage", "label")}
    data = TrainingRows(
        table, collation.checked_template(reranker.tokenizer, reranker.max_length),
        columns["question"], columns["passage"].astype(np.int64) + count, columns["label"],
    )  # fmt: skip
    ended: list[float] = []
    config = TrainingConfig(
        batch_size=min(BATCH, rows), learning_rate=2e-5, max_steps=STEPS, epochs=STEPS, logging_steps=1
    )
    trainer = Trainer(
        reranker, data, config, seed=SEED, device=device, precision=precision, identity={},
        token_budget=ours.budget_of(reranker, device), folder=folder / "checkpoints",
        hooks=Hooks(on_row=lambda _: ended.append(clock.read()[0])),
    )  # fmt: skip
    clock = ours.Clock()

    def run() -> float:
        trainer.run()
        return (ended[-1] - ended[0]) / (len(ended) - 1)

    return run


def _write_rows(rows: int, count: int, folder: Path) -> None:
    """Write each question with its passage and five others', in mined order and the form of `storage.write_mined`."""
    question = np.repeat(np.arange(count, dtype=np.int32), NEGATIVES + 1)[:rows]
    shift = np.tile(np.arange(NEGATIVES + 1, dtype=np.int32), count)[:rows]
    np.save(folder / "question.npy", question)
    np.save(folder / "passage.npy", (question + shift * 7) % np.int32(count))
    np.save(folder / "label.npy", (shift == 0).astype(np.float32))


def evaluate(rows: int, work: Path, folder: Path) -> Callable[[], float]:
    """Return a job that scores and measures a set once."""
    device = resolve_device(RuntimeConfig())
    precision, _ = resolve_precision(Precision.auto, device)
    reranker = ours.load(work / "model", 0.0)
    reranker.model.to(device)
    queries = max(1, rows // DEPTH)
    passages = texts(work / "passages", queries * DEPTH)
    asked = ours.reranking_set(
        {
            "query": texts(work / "questions", queries),
            "documents": [passages[start : start + DEPTH] for start in range(0, len(passages), DEPTH)],
            "positive": [number % DEPTH for number in range(queries)],
        }
    )

    def run() -> float:
        clock = ours.Clock()
        budget = ours.budget_of(reranker, device)
        reranking.mean_measures(asked, PairScorer(reranker, device=device, precision=precision, token_budget=budget))
        return clock.read()[0]

    return run


def mine_negatives(rows: int, work: Path, folder: Path) -> Callable[[], float]:
    """Return a job that embeds, searches and chooses negatives for every question."""
    import sentence_transformers  # noqa: F401  # the miner imports it when it first embeds: seconds that are not mining

    corpus = texts(work / "passages", rows)
    questions = texts(work / "questions", QUESTIONS)
    answers = [corpus[number % rows] for number in range(len(questions))]
    split, config = ours.mining_of(questions, answers, corpus, work / "static", absolute_margin=None)

    def run() -> float:
        clock = ours.Clock()
        mine(split, config, folder / "embeddings", device=resolve_device(RuntimeConfig()).type)
        return clock.read()[0]

    return run


KINDS = {"tokenise": tokenise, "train": train, "evaluate": evaluate, "mine": mine_negatives}
"""Kind → function that loads what the job needs and returns the job; a job returns its seconds."""


def main(job_file: str) -> None:
    """Read a job, run it and write `result`: its seconds, and the memory before the job and at its peak."""
    job = atomic.read_json(Path(job_file))
    run = KINDS[job["kind"]](job["rows"], Path(job["work"]), Path(job["folder"]))
    base = psutil.Process().memory_info().rss
    seconds = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"seconds": seconds, "base_rss_gib": base / 2**30, "peak_rss_gib": peak / 2**20}
    atomic.write_json(Path(job["result"]), {**found, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main(sys.argv[1])
