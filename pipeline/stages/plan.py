"""One configuration on one machine: the keys that name its stages, and the folders of runs and of what runs share.

Runs no stage: the other modules do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipeline.config.data import Retriever, Source
from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention
from pipeline.config.schema import Config
from pipeline.config.set_names import NANO, is_reserved
from pipeline.core.errors import ConfigError, must
from pipeline.core.fingerprint import fingerprint, plain, slug
from pipeline.data.content import content_digest
from pipeline.engine import machine
from pipeline.hub import location
from pipeline.hub.cache import Kind
from pipeline.hub.lock_file import LOCK
from pipeline.networks import fused
from pipeline.stages.rivals import rival_names

VERSIONS = {"mine": 7, "search": 5, "tokens": 1, "train": 12, "evaluate": 16, "card": 7}
"""Version of what each stage writes: increased when the code writes something else for the same configuration."""

OF_THE_CARD = ("title", "language", "license")
"""Keys of `model` that affect only the model card."""


class RunPlan:
    """One configuration on this machine: resolved choices, located inputs, names of its folders.

    `auto` precisions are resolved first, because the precision is part of the fingerprints that name folders.
    `commits` gives, for `<key>=<path>` of a hub artefact, the commit to take whatever its revision resolves to today.
    """

    def __init__(self, config: Config, commits: Mapping[str, str] | None = None) -> None:
        self.commits = commits or {}
        self.device = machine.resolve_device(config.runtime)
        if config.runtime.threads is not None:
            torch.set_num_threads(config.runtime.threads)
        training, self.precision_reason = machine.resolve_precision(config.training.precision, self.device)
        evaluation, _ = machine.resolve_precision(config.evaluation.precision, self.device)
        self.config = dataclasses.replace(
            config,
            training=dataclasses.replace(config.training, precision=training),
            evaluation=dataclasses.replace(config.evaluation, precision=evaluation),
        )
        self.outputs = Path(config.outputs_dir).resolve()
        self.cache = self.outputs / "cache"
        self.lock = self.outputs / LOCK

    def _locate(self, path: str, revision: str | None, kind: Kind, key: str) -> location.Located:
        if (commit := self.commits.get(f"{key}={path}")) is not None:
            path, revision = path.partition("@")[0], commit
        return location.locate(path, revision, kind=kind, lock=self.lock, key=key, refresh=self.config.hub.refresh)

    @cached_property
    def base(self) -> location.Located:
        """The starting weights."""
        return self._locate(self.config.model.path, self.config.model.revision, "model", "model.path")

    @cached_property
    def source(self) -> location.Located | None:
        """The data set on the hub or the local file; None for `packaged_docs`."""
        config = self.config.data
        if config.source is Source.packaged_docs or config.path is None:
            return None
        if config.source is Source.local:
            return location.Located(Path(config.path), {}, config.path)
        return self._locate(config.path, config.revision, "dataset", "data.path")

    @cached_property
    def retriever(self) -> location.Located | None:
        """The first stage's model or run file; None for BM25."""
        config = self.config.mining
        if config.retriever is Retriever.bm25 or config.path is None:
            return None
        if config.retriever is Retriever.run:
            return self._locate(config.path, None, "dataset", "mining.path")
        return self._locate(config.path, config.revision, "model", "mining.path")

    @cached_property
    def nano_beir(self) -> location.Located:
        """The NanoBEIR data."""
        config = self.config.evaluation
        return self._locate(config.nano_beir_path, config.nano_beir_revision, "dataset", "evaluation.nano_beir_path")

    @cached_property
    def rivals(self) -> dict[str, location.Located]:
        """Name → model of each rival, in the configuration's order."""
        paths = self.config.evaluation.rivals
        return {
            name: self._locate(path, None, "model", "evaluation.rivals")
            for name, path in zip(rival_names(paths), paths, strict=True)
        }

    @cached_property
    def collections(self) -> dict[str, location.Located]:
        """Name → BEIR folder of each configured collection, in the configuration's order."""
        found: dict[str, location.Located] = {}
        for path in self.config.evaluation.collections:
            located = self._locate(path, None, "dataset", "evaluation.collections")
            # The folder of a hub snapshot is named by its commit, so the name comes from the hub id.
            name = slug(located.identity.get("hub", located.folder.resolve().name).rpartition("/")[2])
            _check_name(name, found, self.config.data.dev_name)
            found[name] = located
        return found

    @cached_property
    def data_path(self) -> Path | None:
        """The file or folder the pairs are read from; None for `packaged_docs`."""
        return None if self.source is None else self.source.folder

    @cached_property
    def mine_key(self) -> dict[str, Any]:
        """Everything that decides what MINE writes."""
        config = self.config
        content = content_digest(config.data, source=self.data_path, cache=self.cache, workers=config.runtime.workers)
        files = ("dev_path", "corpus_path", *(["path"] if config.data.source is Source.local else []))
        searched = {"search": VERSIONS["search"]} if config.mining.retriever is Retriever.embedding else {}
        return {
            "stage": "mine",
            "version": VERSIONS["mine"],
            "data": {
                **{name: value for name, value in _unplaced(config.data, self.source).items() if name != "title"},
                **{name: _suffix(getattr(config.data, name)) for name in files},
            },
            "mining": _unplaced(config.mining, self.retriever),
            "content": {**content, **({} if self.source is None else self.source.identity)},
            "retriever": None if self.retriever is None else {**self.retriever.identity, **searched},
        }

    @cached_property
    def train_key(self) -> dict[str, Any]:
        """Everything that decides what TRAIN writes; the sets that only EVALUATE reads are not part of it."""
        config = self.config
        nano = NANO in config.training.eval_sets and bool(config.evaluation.nano_beir)
        return {
            "stage": "train",
            "version": VERSIONS["train"],
            "model": {
                key: value for key, value in _unplaced(config.model, self.base).items() if key not in OF_THE_CARD
            },
            "training": plain(config.training),
            "seed": config.seed,
            "evaluation_precision": config.evaluation.precision.name,
            "weights": self.base.identity,
            "nano_beir": {**self.nano_beir.identity, "sets": config.evaluation.nano_beir} if nano else None,
            "mine": fingerprint(self.mine_key),
        }

    @cached_property
    def mined_folder(self) -> Path:
        """The folder that MINE writes; runs and sweeps share it."""
        return self.outputs / "mined" / f"{slug(self.config.data.name)}-{fingerprint(self.mine_key)}"

    @cached_property
    def folder(self) -> Path:
        """The run's folder, named by the fingerprint of its training."""
        return self.outputs / "runs" / f"{slug(self.config.model.name)}-{fingerprint(self.train_key)}"

    def token_budget(self, hidden_size: int, layers: int) -> int:
        """Return the tokens of a micro-batch on this machine."""
        return machine.micro_batch_tokens(self.config.runtime, self.device, hidden_size, layers)

    def scope(self, precision: Precision, budget: int) -> dict[str, Any]:
        """Return what must be equal on another machine for results to be equal bit for bit."""
        code = f"train {VERSIONS['train']}, evaluate {VERSIONS['evaluate']}"
        return {
            **machine.scope(self.device, precision, budget),
            "attention": self.attention().name,
            "fused": fused.version(self.device) if precision is Precision.bf16 else None,
            "code": code,
        }

    def attention(self) -> Attention:
        """Return the attention backend of the loaded model."""
        return machine.resolve_attention(self.config.runtime)


def _unplaced(section: Any, located: location.Located | None) -> dict[str, Any]:
    """Return a section with a local `path` set to None: a key holds the content found there, not its place."""
    found: dict[str, Any] = plain(section)
    return found if located is None or "hub" in located.identity else {**found, "path": None}


def _suffix(path: str | None) -> str | None:
    """Return what a key needs of a path besides the content: a file's suffix, which decides how it is read."""
    return None if path is None else "" if Path(path).is_dir() else Path(path).suffix.lower()


def _check_name(name: str, others: Mapping[str, object], dev_name: str) -> None:
    if name in others or name == dev_name or is_reserved(name):
        remedy = "Rename the folder: its figures are listed under its name."
        rule = "be folders with names that no other set has (the dev set, validation, NanoBEIR's)"
        raise ConfigError(must("evaluation.collections", rule, repr(name), remedy))
