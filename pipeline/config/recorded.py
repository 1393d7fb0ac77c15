"""The recorded configuration of a run: read as `Config` from a manifest's provenance, and written as config.yaml.

Knows the form that `fingerprint.plain` returns (enums by name); knows no Hydra and runs nothing.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline.config.paths import KEYS, at_home
from pipeline.config.schema import Config
from pipeline.core import artifacts
from pipeline.core.credentials import MASK, masked
from pipeline.core.errors import ArtifactError, must

T = TypeVar("T")

FILE = "config.yaml"
"""Copy, in a run's folder, of the configuration that its model's manifest records."""


def from_plain(values: Any, source: str, *, masked_too: bool = False) -> Config:
    """Convert what `plain` returned back to a configuration and check every rule. `source` names it in messages.

    With `masked_too`, masked texts are accepted as they are: for callers that use no value that may be a credential.

    Raises:
        ArtifactError: for an unknown or missing key, a value of the wrong kind, or a masked value.
        ConfigError: when a value breaks a rule.
    """
    if not masked_too:
        _refuse_masked(values, source, "")
    return _section(Config, values, source, "")


def _refuse_masked(value: Any, source: str, key: str) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_masked(item, source, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            _refuse_masked(item, source, key)
    elif isinstance(value, str) and MASK in value:
        raise _refusal(source, key, "be known", "a value that was masked as a credential")


def _section(schema: type[T], values: Any, source: str, prefix: str) -> T:
    if not isinstance(values, dict):
        raise _refusal(source, prefix.rstrip(".") or "the configuration", "be a section", repr(values))
    hints = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, schema))}
    if unknown := sorted(set(values) - set(fields)):
        raise _refusal(source, prefix + unknown[0], "be a key of this version", "an unknown name")
    given: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            given[name] = _value(hints[name], values[name], source, prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _refusal(source, prefix + name, "be given", "nothing")
    return schema(**given)


def _value(hint: Any, value: Any, source: str, key: str) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None and type(None) in options:
        return None
    wanted = next(option for option in options if option is not type(None))
    if dataclasses.is_dataclass(wanted):
        return _section(typing.cast(type[Any], wanted), value, source, f"{key}.")
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        if value not in wanted.__members__:
            raise _refusal(source, key, f"be one of {', '.join(wanted.__members__)}", repr(value))
        return wanted[value]
    if typing.get_origin(wanted) is list:
        if not isinstance(value, list):
            raise _refusal(source, key, "be a list", repr(value))
        return [_value(typing.get_args(wanted)[0], item, source, key) for item in value]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        raise _refusal(source, key, f"be of type {wanted.__name__}", repr(value))
    return at_home(value) if key in KEYS else value


def _refusal(source: str, key: str, rule: str, got: str) -> ArtifactError:
    return ArtifactError(must(f"{source}: {key}", rule, got, "Use the version of this project that wrote it."))


def of_manifest(path: Path, *, masked_too: bool = False) -> tuple[Config, dict[str, Any]]:
    """Return the configuration in a manifest's provenance, and the manifest.

    `path` is the manifest or its folder; `masked_too` is as in `from_plain`.

    Raises:
        ArtifactError: when the manifest is missing, altered, or no stage's: a checkpoint's, a cache's, a profile's.
    """
    folder = path.parent if path.name == artifacts.MANIFEST else path
    manifest = artifacts.manifest_of(folder)
    if manifest is None:
        remedy = "Pass manifest=outputs/runs/<run>/model/manifest.json."
        raise ArtifactError(must("manifest", "name a manifest.json or its folder", repr(str(path)), remedy))
    if "config" not in manifest.get("provenance", {}) or manifest.get("artifact") == "profile":
        raise ArtifactError(
            must(str(folder), "be a stage's folder", f"a manifest of {manifest.get('artifact', 'something else')}",
                 "Pass the manifest of mined/<…>, of a run's model/, card/ or of an evaluation.")
        )  # fmt: skip
    values = manifest["provenance"]["config"]
    return from_plain(values, str(folder / artifacts.MANIFEST), masked_too=masked_too), manifest


def values_of(folder: Path) -> dict[str, Any]:
    """Return the configuration that a stage's complete folder was made with, credentials masked."""
    manifest = artifacts.manifest_of(folder)
    assert manifest is not None, "the caller has seen to it that the folder is complete"
    values: dict[str, Any] = manifest["provenance"]["config"]
    return values


def as_yaml(values: dict[str, Any]) -> bytes:
    """Return the content of a run's config.yaml: a copy for people, from which nothing is composed."""
    return str(yaml.safe_dump(values, sort_keys=False)).encode()


def is_copy(path: Path, values: dict[str, Any]) -> bool:
    """Return whether a config.yaml holds the recorded values; earlier versions masked nothing in it."""
    try:
        return bool(masked(yaml.safe_load(path.read_bytes())) == values)
    except (OSError, ValueError, yaml.YAMLError):
        return False
