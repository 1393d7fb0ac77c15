"""How a configuration's sections refuse a value: one sentence with key, rule, value and remedy. Pure."""

from __future__ import annotations

import math

from pipeline.core.errors import ConfigError, must


def check(ok: bool, key: str, rule: str, got: object, remedy: str) -> None:
    """Refuse a value that breaks its key's rule.

    Raises:
        ConfigError: unless `ok`.
    """
    if not ok:
        raise ConfigError(must(key, rule, got, remedy))


def positive(key: str, value: float, remedy: str) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        ConfigError: naming the key.
    """
    check(value > 0 and math.isfinite(value), key, "be greater than 0", value, remedy)
