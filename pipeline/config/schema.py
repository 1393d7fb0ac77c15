"""The typed schema of a run: every key, its unit, its rule. Knows Hydra and OmegaConf; knows no files.

`register()` puts the schema into Hydra's ConfigStore; `parse()` turns a composed configuration into dataclasses
once, which is where each rule is checked. Plain dataclasses: nothing assigns to them after that.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.config.arguments import keys, nearest
from pipeline.core.errors import ConfigError, must

Activation = Enum("Activation", "identity sigmoid tanh")
Source = Enum("Source", "packaged_docs local hub")
Format = Enum("Format", "pairs labelled negatives beir")
Retriever = Enum("Retriever", "bm25 embedding run")
Sampling = Enum("Sampling", "top random")
Match = Enum("Match", "exact folded")
Precision = Enum("Precision", "auto bf16 fp32")
Device = Enum("Device", "auto cpu cuda")
Attention = Enum("Attention", "auto eager sdpa varlen")
Wandb = Enum("Wandb", "none offline online")
Stage = Enum("Stage", "mine train evaluate card")


DEV, VALIDATION, NANO = "dev", "validation", "nano_beir"
"""What `training.eval_sets` may name; `dev` is the dev set under whatever `data.dev_name` calls it."""


def _check(ok: bool, key: str, rule: str, got: object, remedy: str) -> None:
    if not ok:
        raise ConfigError(must(key, rule, got, remedy))


def _positive(key: str, value: float, remedy: str) -> None:
    _check(value > 0 and math.isfinite(value), key, "be greater than 0", value, remedy)


@dataclass(kw_only=True)
class ModelConfig:
    """Which encoder starts, and how the saved cross-encoder behaves."""

    name: str
    """Slug of the model in folder names and the card's title."""
    path: str
    """Hub id, folder, or `package:<module>` for weights inside an installed package."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit it resolves to is recorded."""
    max_length: int = 512
    """Tokens of a pair, special tokens included; longer pairs are cut, longest text first."""
    activation: Activation = Activation.sigmoid
    """What the saved model's `predict` applies; training and measures always see logits."""
    dropout: float | None = None
    """Every dropout rate of the encoder and head; None keeps the published configuration's."""
    layers: int | None = None
    """Keep the first N encoder layers; None keeps all."""
    hidden_size: int | None = None
    """Width of a randomly initialised model (a multiple of 32); only with `random_init`."""
    random_init: bool = False
    """Random weights from the configuration, for tests and smoke runs; never for quality."""
    title: str | None = None
    """Name of the base model in the card's title; None takes `name`."""
    language: str = "en"
    """Language tag of the card."""
    license: str = "apache-2.0"
    """Licence tag of the card."""

    def __post_init__(self) -> None:
        _check(bool(self.name), "model.name", "be a name", self.name, "Give one, such as my-reranker.")
        _check(
            bool(self.path), "model.path", "name a model", self.path, "Give a folder or a hub id: model.path=<folder>."
        )
        _check(
            self.max_length >= 8,
            "model.max_length",
            "be at least 8 tokens",
            self.max_length,
            "Use 512 for BERT models.",
        )
        if self.dropout is not None:
            _check(0 <= self.dropout < 1, "model.dropout", "be in [0, 1)", self.dropout, "Use 0 or 0.1.")
        if self.layers is not None:
            _check(self.layers >= 1, "model.layers", "be at least 1", self.layers, "Use null to keep every layer.")
        if self.hidden_size is not None:
            _check(
                self.random_init and self.hidden_size % 32 == 0 and self.hidden_size > 0,
                "model.hidden_size",
                "be a multiple of 32 and come with model.random_init=true",
                self.hidden_size,
                "Published weights have a width of their own: remove the key.",
            )


@dataclass(kw_only=True)
class DataConfig:
    """Where pairs come from and how they are split. One schema for every source."""

    source: Source
    """packaged_docs (docstrings of installed libraries), local (files) or hub (a data set on the hub)."""
    name: str
    """Slug of the data in folder names."""
    title: str | None = None
    """Name of the data in the card's title; None takes `name`."""
    dev_name: str = "dev"
    """Name of the dev set in measures and columns."""
    path: str | None = None
    """File, BEIR folder or hub id; unused by packaged_docs."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    format: Format = Format.pairs
    """pairs | labelled | negatives | beir."""
    question_column: str = "question"
    """Column or key of the query text."""
    answer_column: str = "answer"
    """Column or key of the passage text."""
    label_column: str = "label"
    """Column of a 0/1 or graded label (format labelled)."""
    negatives_column: str = "negatives"
    """Column holding a list of passages (format negatives)."""
    group_column: str | None = None
    """Column naming a row's cluster; splits keep clusters whole and intervals resample them."""
    positive_threshold: float = 1.0
    """A label of at least this is a positive (format labelled, and qrels)."""
    dev_path: str | None = None
    """A dev file of the same format, or None to split one off."""
    corpus_path: str | None = None
    """JSONL of passages (key `text` or the answer column) to mine from; None uses the answers."""
    rows: int | None = None
    """Take the first N rows; None takes all."""
    limit: int | None = None
    """Take a subset of N rows drawn with `split_seed`; None takes all."""
    dev_queries: int = 1000
    """Questions for the dev set: a wish, at most a fifth of the questions, at least 20."""
    validation_queries: int = 0
    """Questions taken from the train part for fixed-step evaluations and model selection."""
    queries_per_group: int | None = None
    """Held-out questions of one group at most, so that no large group decides a figure; None sets no limit."""
    split_seed: int = 12
    """Seed of the split and of `limit`."""
    dedupe: bool = True
    """Drop exact duplicate rows after the split."""
    packages: list[str] = field(default_factory=list)
    """Installed libraries whose docstrings are read (packaged_docs)."""

    def __post_init__(self) -> None:
        _check(
            self.source is Source.packaged_docs or bool(self.path),
            "data.path",
            f"name a file, folder or hub id when data.source is {self.source.name}",
            self.path,
            "Pass data.path=<file>.",
        )
        _check(
            self.source is not Source.packaged_docs or bool(self.packages),
            "data.packages",
            "name at least one installed library",
            self.packages,
            "Use data=packaged_docs, which lists them.",
        )
        _check(
            bool(re.fullmatch(r"[A-Za-z0-9._-]+", self.dev_name)),
            "data.dev_name",
            "be letters, digits, '.', '_' or '-'",
            self.dev_name,
            "Use dev.",
        )
        for key in ("rows", "limit", "queries_per_group"):
            value = getattr(self, key)
            _check(value is None or value >= 1, f"data.{key}", "be at least 1", value, "Use null for no limit.")
        _check(self.dev_queries >= 1, "data.dev_queries", "be at least 1", self.dev_queries, "Use 1000.")
        _check(
            self.validation_queries >= 0,
            "data.validation_queries",
            "be at least 0",
            self.validation_queries,
            "Use 100.",
        )


@dataclass(kw_only=True)
class MiningConfig:
    """Which first stage finds negatives and candidates, and which of them become rows."""

    retriever: Retriever
    """bm25 | embedding | run (an imported TREC run)."""
    path: str | None = None
    """Embedding model: folder, hub id or `package:<module>`; or the TREC run file."""
    revision: str | None = None
    """Revision of a retriever on the hub."""
    query_prompt: str = ""
    """Text put before every query when embedding."""
    passage_prompt: str = ""
    """Text put before every passage when embedding."""
    negatives: int = 5
    """Hard negatives a question, from the ranking."""
    random_negatives: int = 0
    """Further negatives a question, drawn at random from the corpus."""
    range_min: int = 0
    """Ranks skipped from the top, after positives and margin are removed."""
    range_max: int = 100
    """Ranks considered; hard negatives come from [range_min, range_max)."""
    absolute_margin: float | None = None
    """Keep only negatives scored at least this far below the positive; None is no margin."""
    relative_margin: float | None = None
    """Keep only negatives scored at most (1 - margin) x the positive's score; None is no margin."""
    sampling: Sampling = Sampling.top
    """top takes the best-ranked; random draws with `seed` from the range."""
    positive_match: Match = Match.folded
    """How a candidate is known to be a positive: exact text, or folded for case and white space."""
    drop_leaks: bool = True
    """Remove train rows that share a question or positive with dev; false only counts them."""
    dev_depth: int = 30
    """First-stage candidates a dev question."""
    seed: int = 12
    """Seed of random negatives and random sampling."""

    def __post_init__(self) -> None:
        _check(
            self.retriever is Retriever.bm25 or bool(self.path),
            "mining.path",
            f"name a model or run file when mining.retriever is {self.retriever.name}",
            self.path,
            "Pass mining.path=<folder, hub id or file>.",
        )
        for key in ("negatives", "random_negatives", "range_min"):
            _check(getattr(self, key) >= 0, f"mining.{key}", "be at least 0", getattr(self, key), "Use 0 or more.")
        _check(
            self.negatives + self.random_negatives > 0,
            "mining.negatives + mining.random_negatives",
            "be at least 1",
            0,
            "A cross-encoder needs negatives to learn from: use mining.negatives=5.",
        )
        room = self.range_max - self.range_min
        _check(
            room >= self.negatives,
            "mining.range_max",
            f"leave room for mining.negatives={self.negatives} after mining.range_min={self.range_min}",
            self.range_max,
            f"Use at least {self.range_min + self.negatives}, or fewer negatives.",
        )
        _check(self.dev_depth >= 1, "mining.dev_depth", "be at least 1", self.dev_depth, "Use 30.")


@dataclass(kw_only=True)
class TrainingConfig:
    """What changes the weights. Memory and speed are in `runtime`."""

    batch_size: int
    """Pairs an optimizer step; never cut to fit memory (micro-batches do that)."""
    learning_rate: float
    """Peak of the linear schedule."""
    epochs: int = 1
    """Passes over the rows, one seeded permutation each."""
    max_steps: int | None = None
    """Stop after N steps (the schedule spans them); None trains all epochs, 0 none: the model is evaluated as it is."""
    warmup_ratio: float = 0.1
    """Share of the steps, rounded up, over which the rate rises from 0."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay; biases and norms are exempt, as in the reference."""
    adam_beta1: float = 0.9
    """AdamW's first moment."""
    adam_beta2: float = 0.999
    """AdamW's second moment."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this."""
    pos_weight: float = 1.0
    """Weight of positives in the loss; 5 in the published recipe (its negatives per positive)."""
    precision: Precision = Precision.auto
    """bf16 is autocast over fp32 weights; auto is bf16 where the device is fast in it, else fp32."""
    logging_steps: int = 20
    """A row in metrics.jsonl every N steps: the mean loss since the row before."""
    logging_first_step: bool = True
    """Also log step 1."""
    eval_steps: int = 0
    """Evaluate and write a checkpoint every N steps; 0 does both only at the end."""
    eval_sets: list[str] = field(default_factory=list)
    """Sets evaluated at the fixed steps: validation, dev, nano_beir (every set of evaluation.nano_beir)."""
    keep_best: bool = False
    """Save the weights of the best fixed evaluation instead of the last step's."""
    selection_set: str | None = None
    """The set that decides which is best: dev, validation, or a NanoBEIR set by its name such as NanoNQ."""
    selection_measure: str = "ndcg@10"
    """The measure that decides: map, mrr@10 or ndcg@10."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, beside the best one."""

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
            _positive(f"training.{key}", getattr(self, key), "See conf/training/ for the published values.")
        _check(
            self.max_steps is None or self.max_steps >= 0,
            "training.max_steps",
            "be at least 0",
            self.max_steps,
            "Use null to train every epoch.",
        )
        for key in ("warmup_ratio", "adam_beta1", "adam_beta2"):
            value = getattr(self, key)
            _check(0 <= value <= 1, f"training.{key}", "be in [0, 1]", value, "See conf/training/.")
        _check(self.weight_decay >= 0, "training.weight_decay", "be at least 0", self.weight_decay, "Use 0.")
        _check(self.eval_steps >= 0, "training.eval_steps", "be at least 0", self.eval_steps, "Use 0 for none.")
        _check(
            self.selection_measure in ("map", "mrr@10", "ndcg@10"),
            "training.selection_measure",
            "be map, mrr@10 or ndcg@10",
            self.selection_measure,
            "Use ndcg@10.",
        )
        if self.keep_best:
            nano = str(self.selection_set).startswith("Nano") and NANO in self.eval_sets
            _check(
                (nano or self.selection_set in {DEV, VALIDATION} & set(self.eval_sets)) and self.eval_steps > 0,
                "training.selection_set",
                f"be one of training.eval_sets={self.eval_sets}, with eval_steps above 0, when keep_best is true",
                self.selection_set,
                "Name an evaluated set, or pass training.keep_best=false.",
            )


@dataclass(kw_only=True)
class EvaluationConfig:
    """The final measurement: which sets, against which systems, in which precision."""

    precision: Precision = Precision.auto
    """The one precision of every score: untrained, fixed steps, final, reloaded."""
    collections: list[str] = field(default_factory=list)
    """BEIR-layout folders to rerank besides the dev set, with BM25 candidates (or their own run.trec)."""
    depth: int = 100
    """First-stage candidates a query of a collection."""
    nano_beir: list[str] = field(default_factory=list)
    """NanoBEIR sets by short name, such as msmarco, nfcorpus, nq."""
    nano_beir_path: str = "sentence-transformers/NanoBEIR-en"
    """Hub id of the NanoBEIR data."""
    nano_beir_revision: str | None = None
    """Revision of the NanoBEIR data."""
    rivals: list[str] = field(default_factory=list)
    """Other cross-encoders to score on the dev set: folders or hub ids, `owner/name@revision` for another than main."""
    bi_encoder: bool = False
    """Also rank by the starting weights as a bi-encoder (mean-pooled, cosine) over the same candidates."""
    fusion: bool = False
    """Also rank by reciprocal-rank fusion (k=60) of the first stage and the bi-encoder."""
    resamples: int = 2000
    """Bootstrap draws where queries come in groups."""

    def __post_init__(self) -> None:
        _check(self.depth >= 1, "evaluation.depth", "be at least 1", self.depth, "Use 100.")
        _check(self.resamples >= 100, "evaluation.resamples", "be at least 100", self.resamples, "Use 2000.")
        _check(
            not self.fusion or self.bi_encoder,
            "evaluation.fusion",
            "come with evaluation.bi_encoder=true",
            self.fusion,
            "It fuses the first stage with the bi-encoder.",
        )


@dataclass(kw_only=True)
class RuntimeConfig:
    """Memory and speed; never the result beyond rounding, so never part of a name."""

    device: Device = Device.auto
    """auto takes a GPU where torch sees one."""
    threads: int | None = None
    """CPU threads of torch; None leaves torch's own choice. Part of the bit-exactness scope."""
    micro_batch_tokens: int | None = None
    """Tokens a forward pass, padding included; None is computed from machine facts. Halve it when memory runs out."""
    attention: Attention = Attention.auto
    """auto is varlen: without padding for models that allow it (BERT, ModernBERT), else SDPA. eager and sdpa pad."""
    workers: int | None = None
    """Processes for extraction and tokenisation; None uses the cores."""

    def __post_init__(self) -> None:
        for key in ("threads", "micro_batch_tokens", "workers"):
            value = getattr(self, key)
            _check(value is None or value >= 1, f"runtime.{key}", "be at least 1", value, "Use null to let it choose.")


@dataclass(kw_only=True)
class TrackingConfig:
    """Where metrics are mirrored."""

    wandb: Wandb = Wandb.none
    """none | offline | online; wandb is imported only when chosen."""
    project: str = "rerankers"
    """W&B project."""
    entity: str | None = None
    """W&B entity; None is the login's default."""


@dataclass(kw_only=True)
class EmissionsConfig:
    """Energy measurement by codecarbon's offline tracker."""

    enabled: bool = True
    """False records no energy; the card says so."""
    country_iso_code: str | None = None
    """Three letters (FRA, DEU, USA): the grid that turns kWh into CO2eq; None is the world average."""

    def __post_init__(self) -> None:
        code = self.country_iso_code
        _check(
            code is None or bool(re.fullmatch(r"[A-Z]{3}", code)),
            "emissions.country_iso_code",
            "be three capital letters",
            code,
            "Use an ISO 3166 alpha-3 code such as FRA.",
        )


@dataclass(kw_only=True)
class HubConfig:
    """How names on the hub become commits."""

    refresh: bool = False
    """True resolves every revision anew; false reuses outputs/hub.lock.json."""


@dataclass(kw_only=True)
class Config:
    """One run."""

    name: str = "unnamed"
    """The experiment, shown in the banner; every experiment file sets its own."""
    needs: str = ""
    """Time, disk, hub and GPU this experiment needs, for the banner."""
    note: str = ""
    """Further lines of the banner."""
    seed: int = 12
    """Seed of head initialisation, row order and dropout; mining and splits have their own."""
    outputs_dir: str = "outputs"
    """Where everything is written."""
    stop_after: Stage = Stage.card
    """The last stage to run."""
    model: ModelConfig
    data: DataConfig
    mining: MiningConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    runtime: RuntimeConfig
    tracking: TrackingConfig
    emissions: EmissionsConfig
    hub: HubConfig

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**32, "seed", "be in [0, 2^32)", self.seed, "Use 12.")
        _check(bool(self.outputs_dir), "outputs_dir", "be a folder", self.outputs_dir, "Use outputs.")
        known = {DEV, VALIDATION, NANO}
        for name in self.training.eval_sets:
            _check(
                name in known, "training.eval_sets", f"hold only {sorted(known)}", name, "Use [dev] or [validation]."
            )
        if NANO in self.training.eval_sets:
            for name in self.evaluation.nano_beir:
                nano_beir_name(name)
        _check(
            VALIDATION not in self.training.eval_sets or self.data.validation_queries > 0,
            "data.validation_queries",
            "be above 0 when training.eval_sets holds validation",
            self.data.validation_queries,
            "Use data.validation_queries=100.",
        )


NANO_BEIR = {
    "climatefever": "NanoClimateFEVER",
    "dbpedia": "NanoDBPedia",
    "fever": "NanoFEVER",
    "fiqa2018": "NanoFiQA2018",
    "hotpotqa": "NanoHotpotQA",
    "msmarco": "NanoMSMARCO",
    "nfcorpus": "NanoNFCorpus",
    "nq": "NanoNQ",
    "quoraretrieval": "NanoQuoraRetrieval",
    "scidocs": "NanoSCIDOCS",
    "arguana": "NanoArguAna",
    "scifact": "NanoSciFact",
    "touche2020": "NanoTouche2020",
}
"""Short names of the thirteen NanoBEIR sets and their split names on the hub."""


def nano_beir_name(short: str) -> str:
    """The split name of a NanoBEIR set.

    Raises:
        ConfigError: for a name that is none of the thirteen.
    """
    if short not in NANO_BEIR:
        raise ConfigError(
            must("evaluation.nano_beir", "hold NanoBEIR names", short, f"Choose among {', '.join(sorted(NANO_BEIR))}.")
        )
    return NANO_BEIR[short]


def register() -> None:
    """Store the schema under the name `conf/config.yaml` lists first."""
    ConfigStore.instance().store(name="schema", node=Config)


GROUPS = ("model", "data", "mining", "training", "evaluation", "runtime", "tracking", "emissions", "experiment")
"""Configuration groups: folders of `conf/` a command line chooses from."""


def unknown_key(key: str, source: str = "") -> ConfigError:
    """The refusal of a key that no section has; `source` says where it was written."""
    remedy = nearest(key, keys(Config) if "." in key else [*keys(Config), *GROUPS])
    return ConfigError(f"{key} must be a key of the configuration, got an unknown name{source}. {remedy}")


def _names(values: dict[Any, Any], prefix: str = "") -> list[str]:
    known = keys(Config)
    found: list[str] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        found += _names(value, f"{key}.") if isinstance(value, dict) and key not in known else [key]
    return found


def parse(composed: DictConfig) -> Config:
    """The composed configuration as dataclasses, every rule checked.

    Raises:
        ConfigError: naming the key, its rule, the value and the remedy.
    """
    for key in _names(cast(dict[Any, Any], OmegaConf.to_container(composed, resolve=False))):
        if key not in keys(Config):  # Hydra's `+key=value` adds whatever it is given.
            raise unknown_key(key)
    try:
        parsed = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "the configuration"
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{key} must be given, got nothing. Pass {key}=<value>.") from None
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{key} must be set and valid, got: {reason}. Pass it as {key}=<value>.") from None
    if not isinstance(parsed, Config):
        raise ConfigError(
            "conf/config.yaml must list `schema` first, got a configuration without it. Restore the file."
        )
    return parsed
