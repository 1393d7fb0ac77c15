"""Keys and arguments that name files, and the expansion of `~` in their values. Opens no file."""

from __future__ import annotations

import os
from typing import Any

KEYS = (
    "outputs_dir",
    "model.path",
    "data.path",
    "data.dev_path",
    "data.corpus_path",
    "mining.path",
    "evaluation.collections",
    "evaluation.nano_beir_path",
    "evaluation.rivals",
)
"""Configuration keys that name files. Some may name a package or hub repository instead: neither begins with `~`."""

ARGUMENTS = ("outputs_dir", "run", "manifest", "file", "weights", "facts")
"""Arguments of commands, besides the configuration, that name files."""


def at_home(value: Any) -> Any:
    """Expand a leading `~` or `~user` in a path or in each path of a list; return any other value unchanged."""
    if isinstance(value, list):
        return [at_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) else value
