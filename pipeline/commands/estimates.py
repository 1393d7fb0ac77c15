"""Estimates of what a run will take: parameters, memory, disk, and time from the measured rate of a matrix product.

Loads only the model's configuration file of a few kilobytes; times are right to a factor of two. Knows nothing of how
a check is worded or what is enough.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config.learning import Precision
from pipeline.config.schema import Config
from pipeline.config.set_names import DEV, NANO, VALIDATION
from pipeline.core import processor
from pipeline.engine import machine
from pipeline.engine.matrix_rate import matrix_rate
from pipeline.hub import location
from pipeline.hub.lock_file import LOCK

PAIR_TOKENS = 75
"""Tokens of a pair, special tokens included: GooAQ's questions and answers average 44 and 252 characters."""

GPU_SHARE, AMX_SHARE, CPU_SHARE = 0.4, 0.2, 0.7
"""Share of a large matrix product's rate that training and scoring reach. For GPUs it is an expectation; for CPUs it
was measured with MiniLM (`.github/records`), and is lower with AMX because other operations do not speed up as much.
Right to a factor of two, except on GPUs so fast that the host limits them: an H200 reached at most 0.13, by wall
clock."""

PRODUCT = {"cpu": 512, "cuda": 8192}
"""Device type → rows and columns of the square matrices whose product is measured."""


@dataclass(slots=True)
class Size:
    """The base model's parameters: in all, and in the encoder's layers alone, which decide the time."""

    parameters: int
    encoder: int


def encoder_parameters(width: int, inner: int, layers: int, *, gated: bool) -> int:
    """Return the weights in all layers' matrices: attention 4·h²; feed-forward part 2·h·i, or 3·h·i if gated."""
    return layers * (4 * width * width + (3 if gated else 2) * width * inner)


def size_of(config: Config) -> Size:
    """Return the base model's size, word embeddings and encoder, from its configuration file alone.

    Raises:
        HubError: when the file is unavailable.
        OSError, ValueError, KeyError, TypeError: when the file does not give sizes under BERT's and ModernBERT's names.
    """
    lock = Path(config.outputs_dir).resolve() / LOCK
    located = location.locate(
        config.model.path, config.model.revision, kind="model", lock=lock, key="model.path", allow=["config.json"]
    )
    seen = json.loads((located.folder / "config.json").read_text(encoding="utf-8"))
    width = config.model.hidden_size or int(seen["hidden_size"])
    inner = 4 * width if config.model.hidden_size else int(seen["intermediate_size"])
    layers = config.model.layers or int(seen["num_hidden_layers"])
    encoder = encoder_parameters(width, inner, layers, gated=seen.get("model_type") == "modernbert")
    return Size(encoder + int(seen["vocab_size"]) * width, encoder)


def memory_bytes(size: Size) -> int:
    """Return the bytes of weights, gradients and two moments in fp32 (16 per parameter), and 2 GiB of activations.

    What activations really take depends on the token budget.
    """
    return 16 * size.parameters + 2 * 2**30


def disk_bytes(config: Config, size: Size) -> int:
    """Return the bytes that outputs take: checkpoints (weights and two moments), the model, 2 GB of mined data."""
    kept = config.training.keep_checkpoints + (2 if config.training.keep_best else 1)
    return size.parameters * (12 * kept + 4) + 2 * 10**9


def share(device: torch.device, precision: Precision) -> float:
    """Return the share of a large matrix product's rate that training and scoring reach."""
    if device.type == "cuda":
        return GPU_SHARE
    with_amx = precision is Precision.bf16 and processor.bf16_unit() == "AMX"
    return AMX_SHARE if with_amx else CPU_SHARE


def pairs_of(config: Config) -> tuple[int, int]:
    """Return the number of pairs trained on and of pairs scored, from the configured rows, steps and sets."""
    training, mining, data = config.training, config.mining, config.data
    questions = min(limit for limit in (data.rows, data.limit, 100_000) if limit is not None)
    pairs = questions * (1 + mining.negatives + mining.random_negatives) * training.epochs
    if training.max_steps is not None:
        pairs = min(pairs, training.max_steps * training.batch_size)
    dev, nano = data.dev_queries * (mining.dev_depth + 1), 50 * 101 * len(config.evaluation.nano_beir)
    a_round = {DEV: dev, VALIDATION: data.validation_queries * (mining.dev_depth + 1), NANO: nano}
    steps = -(-pairs // training.batch_size)
    rounds = 1 + (-(-steps // training.eval_steps) if training.eval_steps else 1)
    # Scored before the first step, at the fixed steps and after the last; then by every cross-encoder on every
    # reported set but the collections, whose queries have not been counted.
    scored = sum(a_round[name] for name in training.eval_sets) * rounds
    return pairs, scored + (dev + nano) * (2 + len(config.evaluation.rivals))


def hours(config: Config, size: Size, device: torch.device) -> float:
    """Return the hours of training and scoring, at 6 and 2 operations per token and encoder parameter."""
    pairs, scored = pairs_of(config)
    precision, _ = machine.resolve_precision(config.training.precision, device)
    trained, seen = (min(PAIR_TOKENS, length) for length in (config.training_length, config.model.max_length))
    operations = size.encoder * (6 * trained * pairs + 2 * seen * scored)
    width = PRODUCT[device.type]
    rate = matrix_rate(width, width, width, device, precision)
    return operations / (share(device, precision) * rate) / 3600
