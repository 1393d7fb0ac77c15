"""Checks that refuse a configuration value in one sentence with key, rule, value and remedy. Pure."""

from __future__ import annotations

import math

from pipeline.core.errors import ConfigError, must

LARGEST = 2**32
"""Limit of seeds (that of numpy's older generators) and of sizes (beyond any memory, within numpy's integers)."""

LARGEST_FLOAT = 3e38
"""Largest magnitude in fp32, in which losses, rates and margins are computed."""


def check(ok: bool, key: str, rule: str, got: object, remedy: str) -> None:
    """Refuse a value that breaks its key's rule; strings are shown in quotes.

    Raises:
        ConfigError: unless `ok`.
    """
    if not ok:
        raise ConfigError(must(key, rule, repr(got), remedy))


def positive(key: str, value: float, remedy: str) -> None:
    """Refuse a value that is not a finite number above 0.

    Raises:
        ConfigError: naming the key.
    """
    check(0 < value < math.inf, key, "be a finite number above 0", value, remedy)


def seed(key: str, value: int) -> None:
    """Refuse a seed that not every random number generator accepts.

    Raises:
        ConfigError: naming the key.
    """
    check(0 <= value < LARGEST, key, "be in [0, 2^32)", value, "Use 12.")


def countable(key: str, value: object) -> None:
    """Refuse a number that libraries cannot hold: a float that is not finite in fp32, or an integer above 32 bits.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(value, int):
        check(abs(value) < LARGEST, key, "be below 2^32", value, "Use a smaller number.")
    elif isinstance(value, float):
        check(abs(value) <= LARGEST_FLOAT, key, "be a finite number in fp32", value, "Use a value nearer 0.")
