"""Which keys and arguments name files, and `~` in them expanded. Opens nothing."""

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
"""Of the configuration. Some may name a package or a repository of the hub: neither begins with `~`."""

ARGUMENTS = ("outputs_dir", "run", "manifest", "file", "weights", "facts")
"""Of commands beside the configuration."""


def at_home(value: Any) -> Any:
    """A path, or a list of them, with a leading `~` or `~user` as the folder it stands for; all else as it is."""
    if isinstance(value, list):
        return [at_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) else value
