"""Errors of Hydra and OmegaConf, turned into one sentence with key, rule, value and remedy."""

from __future__ import annotations

import re

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from pipeline.config.argument_parser import keys, near, rule
from pipeline.config.schema import Config, unknown_key
from pipeline.core.errors import ConfigError, first_line, must, one_file

ONE_FILE = ("data.path", "data.dev_path", "data.corpus_path")
"""Keys that name one file, to which a user may pass several or a pattern."""


def refusal(error: Exception, overrides: list[str]) -> ConfigError:
    """Turn an error of Hydra or OmegaConf into one sentence with key, rule, value and remedy."""
    if ours := _resolvers(error):
        return ours
    known = keys(Config)
    if isinstance(error, OverrideParseException):
        return ConfigError(must("an argument", "read key=value", repr(error.override), _in_quotes(error.override)))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        choices = sorted(error.options)
        meant = near(option, choices)
        remedy = f"Did you mean {group}={meant[0]}?" if meant else f"Pass {group}=<one of them>."
        if group == "training" and not any("training=" in override for override in overrides):
            named = "The default is the model's name"
            remedy = f"{named}: pass training=small, or add conf/training/{option}.yaml."
        return ConfigError(must(group, f"be one of {', '.join(choices)}", repr(option), remedy))
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    key = str(getattr(cause, "full_key", None) or "")
    words = (override.partition("=") for override in overrides)
    given = {name.lstrip("+~"): re.sub(r'^"(.*)"$', r"\1", value) for name, equals, value in words if equals}
    if key in known and isinstance(cause, ValidationError):
        quoted = re.search(r"'(.*?)'", str(cause))
        value = given.get(key, quoted.group(1) if quoted else None)
        got = first_line(cause) if value is None else repr(value)
        remedy = f"Pass {key}=<value>{_source(error)}."
        if key in ONE_FILE and str(value).startswith("["):
            remedy = one_file(key)
        return ConfigError(must(key, f"be {rule(known[key])}", got, remedy))
    if key and key not in known and isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return unknown_key(key, _source(error))
    reason = first_line(error)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'", reason):
        key, _, value = ambiguous.group(1).partition("=")
        remedy = f"`make sweep` runs several in turn; a value with a comma needs its own quotes: '{key}=\"{value}\"'."
        if key in ONE_FILE:
            remedy = f"{one_file(key)} {remedy}"
        return ConfigError(must(key, "have one value", repr(value), remedy))
    if isinstance(cause, InterpolationResolutionError):
        return ConfigError(must("a value with ${…}", "name a key", reason, "Write \\${ for the characters themselves."))
    remedy = "--cfg job lists the keys, conf/ holds the groups."
    return ConfigError(must("the command line", "compose", reason, remedy))


def _in_quotes(word: object) -> str:
    """Return how to type an override whose value Hydra misreads, or a word that is no override."""
    key, equals, value = str(word).partition("=")
    if not equals:
        return "Give a value with spaces its own quotes: ARGS=\"data.path='a b.jsonl'\"."
    if value.startswith("["):
        return f'Put the list items in quotes: \'{key}=["…","…"]\'.'
    shown = "…" if set(value) & set("\"'") else value
    return f"Give the value its own quotes: '{key}=\"{shown}\"'."


def _resolvers(error: BaseException | None) -> ConfigError | None:
    """Return the ConfigError that a resolver of the pipeline raised and OmegaConf replaced by its own, if any."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__context__
    return error


def _source(error: Exception) -> str:
    """Return ` (in conf/<file>.yaml)` if Hydra says that a file, not the command line, holds the value."""
    found = re.match(r"In '([^']+)'", str(error))
    return f" (in conf/{found.group(1)}.yaml)" if found else ""
