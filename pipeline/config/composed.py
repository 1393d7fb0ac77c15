"""The recorded configuration of a run, back as `Config`: from its config.yaml or from a manifest's provenance.

Knows the form `fingerprint.plain` gives (enums by name); knows no Hydra and runs nothing.
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
from pipeline.core.credentials import MASK
from pipeline.core.errors import ArtifactError, must, one_line

T = TypeVar("T")


def from_plain(values: Any, source: str) -> Config:
    """The configuration that `plain` gave, every rule checked again. `source` names it in messages.

    Raises:
        ArtifactError: for an unknown or missing key, a value of the wrong kind, or one that was masked.
        ConfigError: when a value breaks a rule.
    """
    return _section(Config, values, source, "")


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
    if value == MASK or (isinstance(value, str) and MASK in value):
        raise _refusal(source, key, "be known", "a value that was masked as a credential")
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


def of_manifest(path: Path) -> tuple[Config, dict[str, Any]]:
    """The configuration in a manifest's provenance, and the manifest. A folder stands for the manifest in it.

    Raises:
        ArtifactError: when there is none, it was altered, or it has no configuration (a checkpoint's or a cache's).
    """
    folder = path.parent if path.name == artifacts.MANIFEST else path
    manifest = artifacts.manifest_of(folder)
    if manifest is None:
        remedy = "Pass manifest=outputs/runs/<run>/model/manifest.json."
        raise ArtifactError(must("manifest", "name a manifest.json or its folder", repr(str(path)), remedy))
    if "config" not in manifest.get("provenance", {}):
        raise ArtifactError(
            must(str(folder), "be a stage's folder", f"a manifest of {manifest.get('artifact', 'something else')}",
                 "Pass the manifest of mined/<…>, of a run's model/, card/ or of an evaluation.")
        )  # fmt: skip
    return from_plain(manifest["provenance"]["config"], str(folder / artifacts.MANIFEST)), manifest


def of_run(run: Path) -> Config:
    """The configuration of a run's config.yaml.

    Raises:
        ArtifactError: when it is missing, no YAML, or not a configuration of this version.
    """
    path = run / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ArtifactError(must(str(path), "be a run's configuration", one_line(error), "Run it again.")) from None
    return from_plain(values, str(path))
