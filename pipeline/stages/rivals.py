"""Names of rivals in tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import ConfigError, must
from pipeline.core.fingerprint import slug
from pipeline.core.records import BI_ENCODER, COMPARISONS, FIRST_STAGE, FUSION, TRAINED, UNTRAINED

NOT_RIVALS = {FIRST_STAGE, UNTRAINED, TRAINED, BI_ENCODER, FUSION, *COMPARISONS}
"""Names that a rival may not have: the other systems' and comparisons' in the same tables."""


def rival_names(paths: Sequence[str]) -> list[str]:
    """Return the rivals' names in tables: the last part of each path (for `<run>/model`, the run's folder).

    If another rival or one of our systems has that name, the part before it is added, as in `owner-name`.

    Raises:
        ConfigError: when a name is still taken.
    """
    short, names = [_last_parts(path, 1) for path in paths], list[str]()
    for path, name in zip(paths, short, strict=True):
        if name in NOT_RIVALS or short.count(name) > 1:
            name = _last_parts(path, 2)
        if name in NOT_RIVALS or name in names:
            rule = "be models with distinct names that the report does not use itself"
            raise ConfigError(must("evaluation.rivals", rule, repr(path), "Name each model once; rename a folder."))
        names.append(name)
    return names


def _last_parts(path: str, count: int) -> str:
    if path and Path(path).is_dir():
        parts = list(Path(path).resolve().parts)
    else:  # a hub id, whose revision may contain slashes too
        name, at, revision = path.partition("@")
        parts = [*name.split("/")]
        parts[-1] += at + revision
    return slug("-".join((parts[:-1] if parts[-1] == "model" and len(parts) > 1 else parts)[-count:]))
