"""Weights that a model needs and its folder lacks, which transformers draws at random: who they are, and the refusal.

Knows names alone; loads nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import ModelError, must

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
"""Colours of a report on a terminal."""

KINDS = ("UNEXPECTED", "MISSING", "MISMATCH", "CONVERSION")
"""What transformers' report of loaded weights says of a weight."""


def pools(name: str) -> bool:
    """Whether a weight is of the pooler, which a pre-trained encoder may come without and training draws anew."""
    return "pooler" in name.split(".")


def incomplete(key: str, folder: Path, missing: Collection[str], unexpected: Collection[str]) -> ModelError:
    """The refusal of weights whose names do not match: transformers draws the missing ones at random, with a notice.

    Args:
        key: the configuration's, or the folder, as the sentence begins.
        folder: where the weights lie.
        missing: names of weights that the model needs and the folder lacks, at least one.
        unexpected: names of weights that are there for nothing; the one most like a missing one is said.
    """
    lacked, remedy = min(missing), ""
    if len(missing) > 1 and not unexpected and all("decoder" in name.split(".") for name in missing):
        got, remedy = f"no decoder in {folder}", "Its kind scores with one: choose another kind of model."
        return ModelError(must(key, "hold all weights of its model by their names", got, remedy))
    if unexpected:
        like = min(unexpected, key=lambda name: (not name.endswith(f".{lacked}"), name))
        remedy = f"{like!r} is there for nothing: strip a prefix of the names, merge an adapter (merge_and_unload), or "
    remedy += "get the lost weights back, and save the whole model again with save_pretrained."
    return ModelError(must(key, "hold all weights of its model by their names", f"no {lacked} in {folder}",
                           remedy[0].upper() + remedy[1:]))  # fmt: skip


@contextmanager
def reported() -> Iterator[tuple[list[str], list[str]]]:
    """Names of weights that a model needs and its folder lacks, and of those it does not use.

    transformers says them in a table that it logs: it goes on to the log where it tells of more than these.
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
    if shown > logging.WARNING:  # silenced by the user: what it has to tell would be lost
        loader.setLevel(logging.WARNING)
    try:
        yield missing, unused
    finally:
        loader.setLevel(before)
        loader.removeFilter(goes_on)
