"""Seconds that this process has spent on hashing, syncing to disk and verifying. Does none of it itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

Kind = Literal["hash", "sync", "verify"]
"""hash: digests that name an artefact or go into its manifest; sync: fsync; verify: existing results read or scored
again and compared."""

_lock = threading.Lock()
_total: dict[Kind, float] = {"hash": 0.0, "sync": 0.0, "verify": 0.0}
_thread = threading.local()


@contextmanager
def spent(kind: Kind) -> Iterator[None]:
    """Count the block's wall time; a block within another one counts only as part of the outer one."""
    if getattr(_thread, "inside", False):
        yield
        return
    _thread.inside, began = True, time.perf_counter()
    try:
        yield
    finally:
        _thread.inside = False
        with _lock:
            _total[kind] += time.perf_counter() - began


def seconds(since: Mapping[Kind, float] | None = None) -> dict[Kind, float]:
    """Return seconds by kind, summed over threads, since the process began or since an earlier return value."""
    with _lock:
        return {kind: total - (since or {}).get(kind, 0.0) for kind, total in _total.items()}
