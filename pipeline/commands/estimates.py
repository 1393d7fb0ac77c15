"""What a run will take, reckoned from its configuration and a measured product: parameters, memory, disk, time.

Nothing is loaded but the model's configuration file of a few kilobytes; times are right to a factor of two. Knows
nothing of how a check is worded or what is enough.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config.learning import Precision
from pipeline.config.schema import Config
from pipeline.config.sets import DEV, NANO, VALIDATION
from pipeline.core import processor
from pipeline.engine import machine
from pipeline.engine.matrix_rate import matrix_rate
from pipeline.hub import location
from pipeline.hub.lock_file import LOCK

PAIR_TOKENS = 75
"""Tokens of a pair: GooAQ's question and answer hold 44 and 252 characters on average, special tokens included."""

GPU_SHARE, AMX_SHARE, CPU_SHARE = 0.4, 0.2, 0.7
"""Share of a large matrix product's rate that training and scoring reach: on a GPU as expected, on CPUs as MiniLM was
measured (`.github/records`), where AMX multiplies faster than the rest keeps up with. Right to a factor of two, but on
GPUs so fast that the host is the limit: an H200 reached 0.13 and less by the wall clock."""

PRODUCT = {"cpu": 512, "cuda": 8192}
"""Rows and columns of the matrices whose product is measured."""


@dataclass(slots=True)
class Size:
    """The base model: parameters in all, and those of the encoder's layers, which decide the time."""

    parameters: int
    encoder: int


def encoder_parameters(width: int, inner: int, layers: int, *, gated: bool) -> int:
    """Weights of the layers' matrices: attention 4·h², the feed-forward part 2·h·i, 3·h·i where it is gated."""
    return layers * (4 * width * width + (3 if gated else 2) * width * inner)


def size_of(config: Config) -> Size:
    """The base model's size from its configuration file alone: word embeddings and encoder.

    Raises:
        HubError: when the file cannot be had.
        OSError, ValueError, KeyError, TypeError: when it does not say its size as BERT's and ModernBERT's do.
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
    """Weights, gradients and two moments in fp32 are 16 bytes a parameter; activations take what the budget allows."""
    return 16 * size.parameters + 2 * 2**30


def disk_bytes(config: Config, size: Size) -> int:
    """What outputs take: checkpoints (weights and two moments), the model and mined data."""
    kept = config.training.keep_checkpoints + (2 if config.training.keep_best else 1)
    return size.parameters * (12 * kept + 4) + 2 * 10**9


def share(device: torch.device, precision: Precision) -> float:
    """Share of a large matrix product's rate that training and scoring reach."""
    if device.type == "cuda":
        return GPU_SHARE
    with_amx = precision is Precision.bf16 and processor.bf16_unit() == "AMX"
    return AMX_SHARE if with_amx else CPU_SHARE


def pairs_of(config: Config) -> tuple[int, int]:
    """Pairs trained on and pairs scored: rows, steps and sets as configured."""
    training, mining, data = config.training, config.mining, config.data
    questions = min(limit for limit in (data.rows, data.limit, 100_000) if limit is not None)
    pairs = questions * (1 + mining.negatives + mining.random_negatives) * training.epochs
    if training.max_steps is not None:
        pairs = min(pairs, training.max_steps * training.batch_size)
    dev, nano = data.dev_queries * (mining.dev_depth + 1), 50 * 101 * len(config.evaluation.nano_beir)
    a_round = {DEV: dev, VALIDATION: data.validation_queries * (mining.dev_depth + 1), NANO: nano}
    steps = -(-pairs // training.batch_size)
    rounds = 1 + (-(-steps // training.eval_steps) if training.eval_steps else 1)
    # Before the first step, at the fixed ones and at the last; then every cross-encoder on every reported set but the
    # collections, whose queries nobody has counted.
    scored = sum(a_round[name] for name in training.eval_sets) * rounds
    return pairs, scored + (dev + nano) * (2 + len(config.evaluation.rivals))


def hours(config: Config, size: Size, device: torch.device) -> float:
    """Hours of training and scoring: 6 operations a token and encoder parameter for the first, 2 for the second."""
    pairs, scored = pairs_of(config)
    precision, _ = machine.resolve_precision(config.training.precision, device)
    trained, seen = (min(PAIR_TOKENS, length) for length in (config.training_length, config.model.max_length))
    operations = size.encoder * (6 * trained * pairs + 2 * seen * scored)
    width = PRODUCT[device.type]
    rate = matrix_rate(width, width, width, device, precision)
    return operations / (share(device, precision) * rate) / 3600
