"""How a configuration's sections refuse a value: one sentence with key, rule, value and remedy. Pure."""

from __future__ import annotations

import math

from pipeline.core.errors import ConfigError, must

LARGEST = 2**32
"""Where seeds end (numpy's older generators take no others) and sizes: beyond any memory, within what numpy counts."""

LARGEST_FLOAT = 3e38
"""What fp32 holds, in which losses, rates and margins are computed."""


def check(ok: bool, key: str, rule: str, got: object, remedy: str) -> None:
    """Refuse a value that breaks its key's rule; a text is shown in quotes.

    Raises:
        ConfigError: unless `ok`.
    """
    if not ok:
        raise ConfigError(must(key, rule, repr(got), remedy))


def positive(key: str, value: float, remedy: str) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        ConfigError: naming the key.
    """
    check(0 < value < math.inf, key, "be a finite number above 0", value, remedy)


def seed(key: str, value: int) -> None:
    """Refuse what not every generator takes as its seed.

    Raises:
        ConfigError: naming the key.
    """
    check(0 <= value < LARGEST, key, "be in [0, 2^32)", value, "Use 12.")


def countable(key: str, value: object) -> None:
    """Refuse a number that libraries cannot hold: one that is not finite in fp32, or a whole one of more than 32 bits.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(value, int):
        check(abs(value) < LARGEST, key, "be below 2^32", value, "Use a smaller number.")
    elif isinstance(value, float):
        check(abs(value) <= LARGEST_FLOAT, key, "be a finite number in fp32", value, "Use one nearer 0.")
