"""Real training steps of a published architecture at its full size, as a process with a peak memory of its own.

`python tests/full_size.py bert_tiny|modernbert_large|modernbert_large_gpu <work folder>` prints one JSON object. The
first two take one step on the CPU; the third takes 20 of the recipe's steps on a GPU, within an RTX 3090's memory.

Weights are random, from the published configuration. A step is `Trainer`'s: gradient, clipping, AdamW; the last one is
followed by a checkpoint.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_fixtures
import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining, ModernBertConfig, ModernBertForMaskedLM

from pipeline.config.learning import ModelConfig, Precision, TrainingConfig
from pipeline.config.runtime import Attention, Device, RuntimeConfig
from pipeline.core import provenance
from pipeline.engine import model_files
from pipeline.engine.machine import gpu_tokens, resolve_device
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer
from pipeline.engine.steps import TrainingRows
from pipeline.engine.training import Hooks, Trainer
from pipeline.inputs import collation
from pipeline.inputs.tokens import TokenTable

MODERNBERT_LARGE = {
    "vocab_size": 50368,
    "hidden_size": 1024,
    "intermediate_size": 2624,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "max_position_embeddings": 8192,
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
    "attention_dropout": 0.0,
    "embedding_dropout": 0.0,
    "mlp_dropout": 0.0,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "norm_bias": False,
    "mlp_bias": False,
    "attention_bias": False,
}
BERT_TINY = {
    "vocab_size": 30522,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
LENGTH = {"bert_tiny": 512, "modernbert_large": 8192}
BATCH = {"bert_tiny": 2048, "modernbert_large": 8}
"""The recipe's own for bert-tiny; an eighth of it for ModernBERT-large, since a step's cost is linear in its pairs."""

GPU_STEPS, GPU_BATCH = 20, 64
"""Number of steps on a GPU, and the recipe's batch size."""

FULL_BATCH = 160
"""Pairs of a step, some 9,500 tokens, that fill the 8,192 tokens of an RTX 3090's micro-batch and need a second one."""

RTX3090_BYTES = 24 * 2**30
GPU_LIMIT_BYTES = 22 * 2**30
"""Memory for the steps: an RTX 3090's less 2 GiB for the driver, a desktop and fragmentation."""


def base(name: str, folder: Path) -> Path:
    """Write a base model folder in the published form, at full size, with the fixtures' small tokenizer."""
    torch.manual_seed(1)
    if name == "bert_tiny":
        hub_fixtures.wordpiece(folder)
        model: Any = BertForPreTraining(BertConfig(**BERT_TINY))
    else:
        hub_fixtures.modernbert(folder, layers=1)
        model = ModernBertForMaskedLM(ModernBertConfig(**MODERNBERT_LARGE))
    model.save_pretrained(folder)
    return folder


def pairs(count: int) -> list[tuple[str, str]]:
    """Return (question, answer) texts of GooAQ's average lengths (44 and 252 characters).

    The first answer is longer than a window of local attention.
    """
    found = []
    for number, (question, answer) in enumerate(hub_fixtures.sentences(count)):
        passage = f"{answer} {answer}"[:252] if number else " ".join([answer] * 12)
        found.append((f"{question} and where was it found"[:44], passage))
    return found


def rows(reranker: Reranker, texts: list[tuple[str, str]]) -> TrainingRows:
    """Return the pairs as training rows, every sixth a positive."""
    count = len(texts)
    everything = [question for question, _ in texts] + [answer for _, answer in texts]
    return TrainingRows(
        table=TokenTable.build(everything, reranker.tokenizer, reranker.max_length),
        template=collation.checked_template(reranker.tokenizer, reranker.max_length),
        first=np.arange(count),
        second=np.arange(count, 2 * count),
        label=(np.arange(count) % 6 == 0).astype(np.float32),
    )


def scorer(reranker: Reranker) -> PairScorer:
    return PairScorer(reranker, device=torch.device("cpu"), precision=Precision.fp32, token_budget=8192)


def main(name: str, work: Path) -> dict[str, Any]:
    began = time.perf_counter()
    config = ModelConfig(name=name, path=str(base(name, work / "base")), max_length=LENGTH[name])
    reranker = model_files.load(Path(config.path), config, seed=12)
    texts = pairs(BATCH[name])
    data = rows(reranker, texts)
    # No warm-up: its first step has learning rate 0, and a step that changes nothing would prove little.
    training = TrainingConfig(
        batch_size=BATCH[name], learning_rate=2e-5, pos_weight=5.0, max_steps=1, eval_steps=0, warmup_ratio=0.0
    )
    probe = texts[:8]
    before = scorer(reranker).score(probe)
    trainer = Trainer(
        reranker, data, training, seed=12, device=torch.device("cpu"), precision=Precision.fp32, token_budget=8192,
        folder=work / "checkpoints", identity={}, hooks=Hooks(),
    )  # fmt: skip
    facts = trainer.run()
    after = scorer(reranker).score(probe)
    model_files.save(reranker, work / "model", config)
    parameters = sum(parameter.numel() for parameter in reranker.model.parameters())
    seen = reranker.model.config.to_dict()
    del trainer, reranker
    reloaded = model_files.load(work / "model", replace(config, path=str(work / "model")), seed=99)
    again = scorer(reloaded).score(probe)
    hardware = provenance.hardware()
    return {
        "model": name,
        "parameters": parameters,
        "layers": seen["num_hidden_layers"],
        "hidden_size": seen["hidden_size"],
        "layer_types": seen.get("layer_types"),
        "local_attention": seen.get("local_attention"),
        "classifier_pooling": seen.get("classifier_pooling"),
        "dropouts": {key: value for key, value in seen.items() if "dropout" in key and "prob" not in key},
        "batch_size": BATCH[name],
        "tokens": int(data.table.pair_lengths(data.template, data.first, data.second).sum()),
        "longest_pair_tokens": int(data.table.pair_lengths(data.template, data.first, data.second).max()),
        "precision": "fp32",
        "attention": "eager",
        "loss": facts["first_loss"],
        "step_seconds": round(facts["train_seconds"], 2),
        "whole_seconds": round(time.perf_counter() - began, 1),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "step_changed_scores": bool((before != after).any()),
        "reloaded_scores_are_equal": bool((after == again).all()),
        "threads": torch.get_num_threads(),
        "machine": {
            key: hardware[key] for key in ("cpu_model", "cpu_cores", "ram_gib", "instruction_set", "bf16_unit")
        },
        "versions": {key: value for key, value in provenance.versions().items() if key in ("torch", "transformers")},
    }


def gpu_steps(
    folder: Path, work: Path, device: torch.device, *, precision: Precision, batch: int, count: int, length: int
) -> dict[str, Any]:
    """Take `count` steps of `batch` pairs as a run on an RTX 3090 does; return their figures and peak memory.

    A larger GPU is limited to the 3090's memory and uses its token budget, so that the peak is a 3090's.
    """
    config = ModelConfig(name="modernbert_large", path=str(folder), max_length=length)
    reranker = model_files.load(folder, config, seed=12, attention=Attention.varlen)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, GPU_LIMIT_BYTES / total))
        torch.cuda.reset_peak_memory_stats(device)
    data = rows(reranker, pairs(batch * count))
    training = TrainingConfig(
        batch_size=batch, learning_rate=2e-5, pos_weight=5.0, logging_steps=1, eval_steps=0, precision=precision
    )
    trainer = Trainer(
        reranker, data, training, seed=12, device=device, precision=precision,
        token_budget=gpu_tokens(RTX3090_BYTES, reranker.hidden_size, reranker.layers),
        folder=work / "checkpoints", identity={}, hooks=Hooks(),
    )  # fmt: skip
    facts = trainer.run()
    losses = [row["loss"] for row in trainer.state.rows if row["kind"] == "train"]
    on_gpu = device.type == "cuda"
    return {
        "model": "modernbert_large",
        "parameters": sum(parameter.numel() for parameter in reranker.model.parameters()),
        "steps": facts["steps"],
        "batch_size": batch,
        "pairs_per_second": round(facts["pairs_per_second"], 1),
        "tokens_per_second": round(facts["tokens_per_second"], 1),
        "mean_pair_tokens": round(sum(row["tokens"] for row in trainer.state.rows) / (batch * count), 1),
        "precision": precision.name,
        "micro_batch_tokens": facts["micro_batch_tokens"],
        "losses": losses,
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if on_gpu else None,
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved(device) / 2**30, 2) if on_gpu else None,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "machine": provenance.hardware(),
        "versions": {key: value for key, value in provenance.versions().items() if key in ("torch", "transformers")},
    }


def on_gpu(work: Path, *, batch: int = GPU_BATCH, count: int = GPU_STEPS) -> dict[str, Any]:
    """Take 20 steps of the recipe on the GPU that torch sees, or others."""
    device = resolve_device(RuntimeConfig(device=Device.cuda))  # with the memory settings of a run
    return gpu_steps(
        base("modernbert_large", work / "base"), work, device, precision=Precision.bf16,
        batch=batch, count=count, length=LENGTH["modernbert_large"],
    )  # fmt: skip


if __name__ == "__main__":
    asked, place = sys.argv[1], Path(sys.argv[2])
    if asked == "modernbert_large_gpu":
        print(json.dumps(on_gpu(place)))
    elif asked == "modernbert_large_gpu_full":
        print(json.dumps(on_gpu(place, batch=FULL_BATCH, count=3)))
    else:
        print(json.dumps(main(asked, place)))
