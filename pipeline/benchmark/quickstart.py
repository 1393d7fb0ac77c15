"""The whole quickstart on both sides: mine, train, evaluate, on the same rows. Knows nothing of how often it is run.

Ours goes through the real stages, so that what a run pays for verification, hashing and syncing is measured too.
sentence-transformers has no BM25 to mine with: it is given the rows this pipeline mined, and that time is ours alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.benchmark.cases import Settings
from pipeline.benchmark.ours import Clock, Columns, Done
from pipeline.benchmark.reference import load, steps_of
from pipeline.config.compose import composed
from pipeline.config.learning import Precision
from pipeline.config.schema import Config
from pipeline.core import upkeep
from pipeline.core.artifacts import read_json, write_json
from pipeline.core.records import AS_RETRIEVED, TRAINED, UNTRAINED, RerankingSet
from pipeline.data import storage
from pipeline.data.packaged_docs import extract
from pipeline.engine import model_files
from pipeline.engine.batching import Plan, warmup_steps
from pipeline.evaluation.measures import MEASURES, mean, order, per_query
from pipeline.stages.card import card
from pipeline.stages.evaluate import BI_ENCODER, evaluate, evaluation_folder
from pipeline.stages.mine import mine
from pipeline.stages.models import load as load_reranker
from pipeline.stages.plan import Run
from pipeline.stages.train import train

ROWS = "rows.json"
"""What the reference is given: training rows and sets as texts. Ours mines its own."""

SYSTEMS = (UNTRAINED, TRAINED, BI_ENCODER)
"""What both sides evaluate on the dev set."""

FEWEST_PAIRS = 200
"""What little data is left whole: sets need questions to be split from."""

Samples = list[dict[str, Any]]
"""A set as `CrossEncoderRerankingEvaluator` takes it: query, positive texts, documents in first-stage order."""


def prepare(rows: int, work: Path, overrides: Sequence[str] = ()) -> None:
    """Write `cache/` (docstrings), `model/` (weights with their head), `texts.json` (our command) and `rows.json`.

    `rows` are training pairs; fewer than the quickstart's shorten its data, dev and validation sets in proportion.
    """
    whole = configuration(overrides, work / "prepared")
    pairs = len(extract(whole.data.packages, work / "cache", whole.runtime.workers).rows)
    command = [*overrides, *scaled(whole, rows, pairs)]
    run = _run(command, work / "prepared", work / "cache")
    mine(run)
    model_files.save(load_reranker(run, run.base.folder, run.config.model), work / "model", run.config.model)
    mined = storage.read_rows(run.mined_folder)
    columns = {
        "question": [mined.questions[q] for q in mined.question],
        "answer": [mined.passages[p] for p in mined.passage],
        "label": mined.label.tolist(),
    }
    sets = {name: _samples(storage.read_set(run.mined_folder / name)) for name in ("dev", "validation")}
    write_json(work / ROWS, {"train": columns, **sets})
    write_json(work / "texts.json", {"command": command, "base": str(run.base.folder)})


def configuration(overrides: Sequence[str], outputs: Path) -> Config:
    """The quickstart without energy measurement, which the reference does not do."""
    return composed(["experiment=quickstart", "emissions=off", f"outputs_dir='{outputs}'", *overrides])


def precision_of(work: Path) -> Precision:
    """The precision our command trains in; the reference trains and evaluates in it."""
    config = configuration(read_json(work / "texts.json")["command"], work / "outputs")
    return config.training.precision


def scaled(whole: Config, rows: int, pairs: int) -> list[str]:
    """What shortens the quickstart to `rows` training pairs, of `pairs` docstrings in all."""
    steps = -(-rows // whole.training.batch_size)
    share = min(1.0, steps / (whole.training.max_steps or steps))
    return [
        f"training.max_steps={steps}",
        f"training.eval_steps={max(1, round(whole.training.eval_steps * share))}",
        f"data.limit={max(FEWEST_PAIRS, round(pairs * share))}",
        f"data.dev_queries={round(whole.data.dev_queries * share)}",
        f"data.validation_queries={max(1, round(whole.data.validation_queries * share))}",
    ]


def _run(command: Sequence[str], outputs: Path, cache: Path) -> Run:
    """A run with the docstrings already read, as on any machine that ran it once."""
    run = Run(configuration(command, outputs))
    shutil.copytree(cache, run.cache)
    return run


def _samples(found: RerankingSet) -> Samples:
    return [
        {
            "query": text,
            "positive": [found.passages[p] for p, grade in found.qrels[query].items() if grade > 0],
            "documents": [found.passages[p] for p in found.candidates[query]],
        }
        for query, text in found.queries.items()
    ]


class _Phases:
    """Wall seconds by phase, each phase's parts added up."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Count the block towards `<phase>_seconds`."""
        began = time.perf_counter()
        yield
        name = f"{phase}_seconds"
        self.figures[name] = self.figures.get(name, 0.0) + time.perf_counter() - began


def ours(settings: Settings, texts: Columns, model: Path, device: torch.device, precision: Precision) -> Done:
    """The stages in order, from an empty outputs folder. The card is written too, and counts for the upkeep alone."""
    import sentence_transformers  # noqa: F401  # imported by the bi-encoder in the middle: seconds that are no work

    run = _run(texts["command"], model.parent / "outputs", model.parent / "cache")
    phases, before, clock = _Phases(), upkeep.seconds(), Clock()
    stages: dict[str, Callable[[Run], object]] = {"mine": mine, "train": train, "evaluate": evaluate}
    for name, stage in stages.items():
        with phases.of(name):
            stage(run)
    seconds = clock.read()
    card(run)
    whole, kept = clock.read()[0], upkeep.seconds(before)
    figures = {
        **phases.figures,
        **{f"upkeep_{kind}_seconds": spent for kind, spent in kept.items()},
        "upkeep_seconds": sum(kept.values()),
        "upkeep_share": sum(kept.values()) / whole,
    }
    dev = read_json(evaluation_folder(run, run.config.data.dev_name) / "measures.json")[AS_RETRIEVED]
    same = {f"measures_{system}": {name: dev[system][name] for name in MEASURES} for system in SYSTEMS}
    facts = read_json(run.folder / "model" / "training.json")
    pairs = facts["steps"] * facts["batch_size"]
    return Done(seconds, pairs, None, None, {"rows": facts["rows"], **same}, figures)


def reference(
    settings: Settings, setting: dict[str, Any], texts: Columns, model: Path, device: torch.device, precision: Precision
) -> Done:
    """The same rows, steps, fixed evaluations and checkpoints by sentence-transformers; it does not mine."""
    import sentence_transformers  # noqa: F401  # as ours: libraries are loaded before the clock starts
    from sentence_transformers.cross_encoder import CrossEncoderTrainer  # noqa: F401

    rows = read_json(model.parent / ROWS)
    config = configuration(texts["command"], model.parent / "outputs")
    phases, clock = _Phases(), Clock()
    phases.figures["mine_seconds"] = 0.0
    dev = _evaluator(rows["dev"], setting)
    with phases.of("evaluate"):
        encoder = _in_precision(load(model, setting, device), device, precision)
        found = {UNTRAINED: dev(encoder)}
    with phases.of("train"):
        pairs = _train(encoder, rows, config, setting, device, precision, model.parent / "reference")
    with phases.of("evaluate"):
        found[TRAINED] = dev(
            _in_precision(load(model.parent / "reference" / "model", setting, device), device, precision)
        )
        with _autocast(device, precision):
            found[BI_ENCODER] = _bi_encoder(rows["dev"], str(texts["base"]), setting["batch_size"], device)
    seconds = clock.read()
    same = {f"measures_{system}": {name: float(found[system][name]) for name in MEASURES} for system in SYSTEMS}
    return Done(seconds, pairs, None, None, {"rows": len(rows["train"]["label"]), **same}, phases.figures)


def _in_precision(encoder: Any, device: torch.device, precision: Precision) -> Any:
    """The encoder scoring under the one evaluation precision and its whole length, inside its trainer too."""
    plain, length = _autocast(device, precision)(encoder.predict), encoder.max_seq_length

    def predict(*arguments: Any, **options: Any) -> Any:
        trained_at, encoder.max_seq_length = encoder.max_seq_length, length
        try:
            return plain(*arguments, **options)
        finally:
            encoder.max_seq_length = trained_at

    encoder.predict = predict
    return encoder


def _autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision is Precision.bf16)


def _evaluator(samples: Samples, setting: dict[str, Any]) -> Any:
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    return CrossEncoderRerankingEvaluator(
        samples=samples, batch_size=setting["batch_size"], always_rerank_positives=False, write_csv=False
    )


def _train(
    encoder: Any, rows: dict[str, Any], config: Config, setting: dict[str, Any], device: torch.device,
    precision: Precision, folder: Path,
) -> int:  # fmt: skip
    """Train and save to `folder`/model; pairs trained on."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    wanted = config.training
    plan = Plan(len(rows["train"]["label"]), wanted.batch_size, wanted.epochs, config.seed, wanted.max_steps)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder), max_steps=plan.steps, seed=config.seed, per_device_train_batch_size=wanted.batch_size,
        learning_rate=wanted.learning_rate, warmup_steps=warmup_steps(plan.steps, wanted.warmup_ratio),
        weight_decay=wanted.weight_decay, bf16=precision is Precision.bf16, logging_steps=wanted.logging_steps,
        eval_strategy="steps", eval_steps=wanted.eval_steps, save_strategy="steps", save_steps=wanted.eval_steps,
        save_total_limit=wanted.keep_checkpoints, report_to="none", disable_tqdm=True, use_cpu=device.type == "cpu",
        batch_sampler=partial(steps_of, plan),
    )  # fmt: skip
    loss = BinaryCrossEntropyLoss(encoder, pos_weight=torch.tensor(wanted.pos_weight, device=device))
    validation = _evaluator(rows["validation"], setting)
    validation(encoder)  # before the first step, as ours
    length, encoder.max_seq_length = encoder.max_seq_length, config.training_length
    CrossEncoderTrainer(
        model=encoder, args=arguments, train_dataset=Dataset.from_dict(rows["train"]), loss=loss, evaluator=validation
    ).train()
    encoder.max_seq_length = length
    encoder.save_pretrained(str(folder / "model"))
    return plan.steps * wanted.batch_size


def _bi_encoder(samples: Samples, folder: str, batch_size: int, device: torch.device) -> dict[str, float]:
    """Measures of the starting weights as a bi-encoder: each distinct text embedded once, as ours."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(folder, device=device.type, local_files_only=True)
    numbers = {text: n for n, text in enumerate(dict.fromkeys(text for one in samples for text in one["documents"]))}
    options = {"batch_size": batch_size, "normalize_embeddings": True, "show_progress_bar": False}
    queries = encoder.encode_query([one["query"] for one in samples], **options)
    documents = encoder.encode_document(list(numbers), **options)
    ranking, qrels = {}, {}
    for row, one in enumerate(samples):
        found = np.array([numbers[text] for text in one["documents"]], np.int64)
        ranking[str(row)] = order([str(n) for n in found], documents[found] @ queries[row])
        qrels[str(row)] = {str(numbers.get(text, f"missing {n}")): 1 for n, text in enumerate(one["positive"])}
    values = per_query(ranking, qrels)
    return {name: mean(values[name]) for name in MEASURES}
