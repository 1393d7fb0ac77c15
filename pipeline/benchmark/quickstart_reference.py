"""The whole quickstart by sentence-transformers: train and evaluate on the rows and sets that `quickstart` prepared.

sentence-transformers has no BM25 to mine with: it is given the rows that this pipeline mined, and the time of mining
counts for our side alone. None of our stages runs here.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.benchmark.cases import Settings
from pipeline.benchmark.ours import Clock, Columns, Done
from pipeline.benchmark.quickstart import ROWS, SYSTEMS, Phases, Samples, configuration
from pipeline.benchmark.reference import autocast, evaluator_of, load, steps_of
from pipeline.config.learning import Precision
from pipeline.config.schema import Config
from pipeline.core.atomic import read_json
from pipeline.core.records import BI_ENCODER, MEASURES, TRAINED, UNTRAINED
from pipeline.evaluation.measures import mean, order, per_query
from pipeline.inputs.batching import Plan, warmup_steps


def reference(
    settings: Settings, setting: dict[str, Any], texts: Columns, model: Path, device: torch.device, precision: Precision
) -> Done:
    """Train and evaluate with sentence-transformers: our rows, steps, evaluations and checkpoints, but no mining."""
    import sentence_transformers  # noqa: F401  # as on our side: libraries are loaded before the clock starts
    from sentence_transformers.cross_encoder import CrossEncoderTrainer  # noqa: F401

    rows = read_json(model.parent / ROWS)
    config = configuration(texts["command"], model.parent / "outputs")
    phases, clock = Phases(), Clock()
    phases.figures["mine_seconds"] = 0.0
    dev = evaluator_of(rows["dev"], setting)
    with phases.of("evaluate"):
        encoder = _in_precision(load(model, setting, device), device, precision)
        found = {UNTRAINED: dev(encoder)}
    with phases.of("train"):
        pairs = _train(encoder, rows, config, setting, device, precision, model.parent / "reference")
    with phases.of("evaluate"):
        found[TRAINED] = dev(
            _in_precision(load(model.parent / "reference" / "model", setting, device), device, precision)
        )
        with autocast(device, precision):
            found[BI_ENCODER] = _bi_encoder(rows["dev"], str(texts["base"]), setting["batch_size"], device)
    seconds = clock.read()
    same = {f"measures_{system}": {name: float(found[system][name]) for name in MEASURES} for system in SYSTEMS}
    return Done(seconds, pairs, None, None, {"rows": len(rows["train"]["label"]), **same}, phases.figures)


def _in_precision(encoder: Any, device: torch.device, precision: Precision) -> Any:
    """Make the encoder score in the evaluation precision and at its full length, also inside its trainer."""
    plain, length = autocast(device, precision)(encoder.predict), encoder.max_seq_length

    def predict(*arguments: Any, **options: Any) -> Any:
        trained_at, encoder.max_seq_length = encoder.max_seq_length, length
        try:
            return plain(*arguments, **options)
        finally:
            encoder.max_seq_length = trained_at

    encoder.predict = predict
    return encoder


def _train(
    encoder: Any, rows: dict[str, Any], config: Config, setting: dict[str, Any], device: torch.device,
    precision: Precision, folder: Path,
) -> int:  # fmt: skip
    """Train, save to `folder`/model, and return the number of pairs trained on."""
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
    validation = evaluator_of(rows["validation"], setting)
    validation(encoder)  # before the first step, as on our side
    length, encoder.max_seq_length = encoder.max_seq_length, config.training_length
    CrossEncoderTrainer(
        model=encoder, args=arguments, train_dataset=Dataset.from_dict(rows["train"]), loss=loss, evaluator=validation
    ).train()
    encoder.max_seq_length = length
    encoder.save_pretrained(str(folder / "model"))
    return plan.steps * wanted.batch_size


def _bi_encoder(samples: Samples, folder: str, batch_size: int, device: torch.device) -> dict[str, float]:
    """Measure the starting weights as a bi-encoder; each distinct document is embedded once, as on our side."""
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
