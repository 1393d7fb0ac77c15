"""Configuration of TRAIN and EVALUATE: base model, hyperparameters, sets and rivals. Reads no files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath

from pipeline.config.rules import check, positive
from pipeline.config.set_names import nano_beir_name
from pipeline.core.records import HEADLINE, MEASURES

Activation = Enum("Activation", "identity sigmoid tanh")
Precision = Enum("Precision", "auto bf16 fp32")


@dataclass(kw_only=True)
class ModelConfig:
    """Which encoder training starts from, and how the saved cross-encoder behaves."""

    name: str
    """Slug of the model in folder names and the card's title."""
    path: str
    """Hub id, folder, or `package:<module>` for weights inside an installed package."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit it resolves to is recorded."""
    max_length: int = 512
    """Most tokens of a pair, special tokens included; longer pairs are cut, longest text first."""
    activation: Activation = Activation.sigmoid
    """What the saved model's `predict` applies; training and measures always see logits."""
    dropout: float | None = None
    """Every dropout rate of the encoder and head, at most 0.99; None keeps the published configuration's."""
    layers: int | None = None
    """Keep the first N encoder layers; None keeps all."""
    hidden_size: int | None = None
    """Width of a randomly initialised model (a multiple of 32); only with `random_init`."""
    random_init: bool = False
    """Random weights from the configuration, for tests and smoke runs; never for quality."""
    title: str | None = None
    """Name of the base model in the card; None takes `name`, or with model=custom the last part of `path`."""
    language: str | None = None
    """Language tag of the card; None is en for the data of `conf/data`, and no tag for a user's own."""
    license: str | None = None
    """Licence tag of the card; None is apache-2.0 for the models and data of `conf/`, and no tag for a user's own."""

    def __post_init__(self) -> None:
        check(bool(self.name), "model.name", "be a name", self.name, "Give one, such as my-reranker.")
        check(
            bool(self.path), "model.path", "name a model", self.path, "Give a folder or a hub id: model.path=<folder>."
        )
        if self.title is None and self.name == "custom":
            self.title = PurePath(self.path).name
        for key, example in (("language", "en"), ("license", "other")):
            value = getattr(self, key)
            check(value is None or bool(value.strip()), f"model.{key}", "be a tag of the hub", value, f"Use {example}.")
        check(
            self.max_length >= 8,
            "model.max_length",
            "be at least 8 tokens",
            self.max_length,
            "Use 512 for BERT models.",
        )
        if self.dropout is not None:
            check(0 <= self.dropout <= 0.99, "model.dropout", "be in [0, 0.99]", self.dropout, "Use 0 or 0.1.")
        if self.layers is not None:
            check(self.layers >= 1, "model.layers", "be at least 1", self.layers, "Use null to keep every layer.")
        if self.hidden_size is not None:
            check(
                self.random_init and self.hidden_size % 32 == 0 and self.hidden_size > 0,
                "model.hidden_size",
                "be a multiple of 32 and be used with model.random_init=true",
                self.hidden_size,
                "Published weights have their own width: remove the key.",
            )


@dataclass(kw_only=True)
class TrainingConfig:
    """Hyperparameters, which decide the weights. Memory and speed are in `runtime`."""

    batch_size: int
    """Pairs per optimizer step; never reduced to fit memory (micro-batches do that)."""
    max_length: int | None = None
    """Most tokens of a training pair; tokens decide what a step costs. None takes `model.max_length`."""
    learning_rate: float
    """Peak of the linear schedule."""
    epochs: int = 1
    """Passes over the rows, one seeded permutation each."""
    max_steps: int | None = None
    """Stop after N steps (the schedule spans them); None trains all epochs. 0 trains none: the model is evaluated as it
    is, with a random head if it has none."""
    warmup_ratio: float = 0.1
    """Share of the steps, rounded up, over which the rate rises from 0."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay; biases and norms are exempt, as in the reference."""
    adam_beta1: float = 0.9
    """Decay rate of AdamW's first moment."""
    adam_beta2: float = 0.999
    """Decay rate of AdamW's second moment."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """The global gradient norm is clipped to this value."""
    pos_weight: float = 1.0
    """Weight of positives in the loss; 5 in the published recipe (its negatives per positive)."""
    precision: Precision = Precision.auto
    """bf16 is autocast over fp32 weights; auto is bf16 where the device is fast in it, else fp32."""
    logging_steps: int = 20
    """Write a row to metrics.jsonl every N steps, with the mean loss since the previous row that has one."""
    logging_first_step: bool = True
    """Also log step 1."""
    eval_steps: int = 0
    """Evaluate and write a checkpoint every N steps; 0 does both only at the end."""
    eval_sets: list[str] = field(default_factory=list)
    """Sets evaluated at the fixed steps: validation, dev, nano_beir (every set of evaluation.nano_beir)."""
    keep_best: bool = False
    """Save the weights of the best evaluation at a fixed step (every `eval_steps`) instead of the last step's. The last
    step competes only if it is a fixed step, as in the published recipe."""
    selection_set: str | None = None
    """Set that decides which is best: dev, validation, a NanoBEIR set such as NanoNQ, or NanoBEIR_R100_mean."""
    selection_measure: str = HEADLINE
    """Measure that decides which is best, map, mrr@10 or ndcg@10."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep, besides the best one."""

    def __post_init__(self) -> None:
        for key in (
            "batch_size",
            "learning_rate",
            "epochs",
            "logging_steps",
            "max_grad_norm",
            "pos_weight",
            "adam_epsilon",
            "keep_checkpoints",
        ):
            positive(f"training.{key}", getattr(self, key), "See conf/training/ for the published values.")
        check(
            self.max_steps is None or self.max_steps >= 0,
            "training.max_steps",
            "be at least 0",
            self.max_steps,
            "Use null to train every epoch.",
        )
        check(
            self.max_length is None or self.max_length >= 8,
            "training.max_length",
            "be at least 8 tokens",
            self.max_length,
            "Use null to take model.max_length.",
        )
        check(0 <= self.warmup_ratio <= 1, "training.warmup_ratio", "be in [0, 1]", self.warmup_ratio, "Use 0.1.")
        for key, usual in (("adam_beta1", 0.9), ("adam_beta2", 0.999)):
            value = getattr(self, key)
            check(0 <= value < 1, f"training.{key}", "be in [0, 1)", value, f"Use {usual}.")  # 1 divides by 0
        check(
            0 <= self.weight_decay < math.inf,
            "training.weight_decay",
            "be at least 0 and finite",
            self.weight_decay,
            "Use 0.",
        )
        check(
            len(set(self.eval_sets)) == len(self.eval_sets),
            "training.eval_sets",
            "name each set once",
            self.eval_sets,
            "Remove the repeated name.",
        )
        check(self.eval_steps >= 0, "training.eval_steps", "be at least 0", self.eval_steps, "Use 0 for none.")
        check(
            self.selection_measure in MEASURES,
            "training.selection_measure",
            f"be one of {', '.join(MEASURES)}",
            self.selection_measure,
            f"Use {HEADLINE}.",
        )
        if self.keep_best:
            check(
                self.eval_steps > 0,
                "training.eval_steps",
                "be above 0 when training.keep_best is true",
                self.eval_steps,
                "Use 200, or pass training.keep_best=false.",
            )


@dataclass(kw_only=True)
class EvaluationConfig:
    """The final measurement: which sets, against which systems, in which precision."""

    precision: Precision = Precision.auto
    """Precision of all scores alike: untrained, fixed steps, final, reloaded, bi-encoder."""
    collections: list[str] = field(default_factory=list)
    """BEIR-layout folders to rerank besides the dev set, with BM25 candidates (or their own run.trec)."""
    depth: int = 100
    """First-stage candidates per query of a collection."""
    nano_beir: list[str] = field(default_factory=list)
    """NanoBEIR sets by short name, such as msmarco, nfcorpus, nq."""
    nano_beir_path: str = "sentence-transformers/NanoBEIR-en"
    """Hub id of the NanoBEIR data."""
    nano_beir_revision: str | None = None
    """Revision of the NanoBEIR data."""
    rivals: list[str] = field(default_factory=list)
    """Other cross-encoders to score on every reported set: folders or hub ids, `owner/name@revision` for another
    revision than main."""
    bi_encoder: bool = False
    """Also rank the same candidates by the base model as a bi-encoder (its own pooling, or the mean if it names none;
    cosine), with the weights as they are in `model.path`: `model.layers` and `model.random_init` are ignored."""
    fusion: bool = False
    """Also rank by reciprocal-rank fusion (k=60) of the first stage and the bi-encoder."""
    resamples: int = 2000
    """Bootstrap draws if queries come in groups."""

    def __post_init__(self) -> None:
        names = [nano_beir_name(short) for short in self.nano_beir]
        check(
            len(set(names)) == len(names),
            "evaluation.nano_beir",
            "name each set once",
            self.nano_beir,
            "A set named twice would count twice in the mean.",
        )
        check(self.depth >= 1, "evaluation.depth", "be at least 1", self.depth, "Use 100.")
        check(self.resamples >= 100, "evaluation.resamples", "be at least 100", self.resamples, "Use 2000.")
        check(
            not self.fusion or self.bi_encoder,
            "evaluation.fusion",
            "come with evaluation.bi_encoder=true",
            self.fusion,
            "Pass evaluation.fusion=false too: it fuses the first stage with the bi-encoder.",
        )
