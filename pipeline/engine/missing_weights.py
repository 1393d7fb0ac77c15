"""Weights that a model needs and its folder lacks, which transformers draws at random: their names, and the error.

Knows only names of weights; loads nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import ModelError, must

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
"""Terminal colour codes in a report."""

KINDS = ("UNEXPECTED", "MISSING", "MISMATCH", "CONVERSION")
"""Statuses of a weight in transformers' report of loaded weights."""


def pools(name: str) -> bool:
    """Return whether a weight belongs to the pooler, which a pre-trained encoder may lack and training draws anew."""
    return "pooler" in name.split(".")


def incomplete(key: str, folder: Path, missing: Collection[str], unexpected: Collection[str]) -> ModelError:
    """Return the error for missing weights, which transformers would draw at random with a mere notice.

    Args:
        key: the configuration key, or the folder, with which the message begins.
        folder: the weights' folder.
        missing: names of weights that the model needs and the folder lacks, at least one.
        unexpected: names of weights in the folder that the model does not use; the message names one, if possible one
            that is a missing weight with a prefix.
    """
    lacked, remedy = min(missing), ""
    if len(missing) > 1 and not unexpected and all("decoder" in name.split(".") for name in missing):
        got, remedy = f"no decoder in {folder}", "This kind of model scores with its decoder: choose another kind."
        return ModelError(must(key, "hold all weights of its model by their names", got, remedy))
    if unexpected:
        like = min(unexpected, key=lambda name: (not name.endswith(f".{lacked}"), name))
        remedy = (
            f"{like!r} is not used by the model: strip a prefix of the names, merge an adapter (merge_and_unload), or "
        )
    remedy += "restore the missing weights, and save the whole model again with save_pretrained."
    return ModelError(must(key, "hold all weights of its model by their names", f"no {lacked} in {folder}",
                           remedy[0].upper() + remedy[1:]))  # fmt: skip


@contextmanager
def reported() -> Iterator[tuple[list[str], list[str]]]:
    """Yield two lists, filled when a model is loaded: weights that its folder lacks, and weights that it does not use.

    The names come from a table that transformers logs. The table reaches the log only if it reports other problems too
    and no weight but the pooler's is missing.
    """
    missing, unused = list[str](), list[str]()
    loader = logging.getLogger("transformers.modeling_utils")
    before, shown = loader.level, loader.getEffectiveLevel()

    def goes_on(record: logging.LogRecord) -> bool:
        said = ESCAPES.sub("", record.getMessage())
        if "LOAD REPORT" not in said:
            return record.levelno >= shown
        of_kind = {kind: re.findall(rf"^(.+?) +\| {kind} ", said, re.MULTILINE) for kind in KINDS}
        unused.extend(of_kind.pop("UNEXPECTED"))
        missing.extend(of_kind.pop("MISSING"))
        return any(of_kind.values()) and all(map(pools, missing)) and record.levelno >= shown

    loader.addFilter(goes_on)
    if shown > logging.WARNING:  # silenced by the user: the table would be lost
        loader.setLevel(logging.WARNING)
    try:
        yield missing, unused
    finally:
        loader.setLevel(before)
        loader.removeFilter(goes_on)
