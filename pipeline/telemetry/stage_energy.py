"""Time and energy of a stage over all its processes, including killed ones. Knows nothing of particular stages.

A killed process has no time to write, so a thread writes continually: the time of a killed process is known to within
one second, its energy to within five.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.core import atomic
from pipeline.core.errors import ArtifactError
from pipeline.telemetry.energy_records import add

log = logging.getLogger(__name__)

NOTE_SECONDS = 1.0
"""Seconds between two notes: the most of a process's time that a kill may leave unrecorded."""

ENERGY_SECONDS = 5.0
"""The same for its energy, read less often because reading the counters costs more than writing a file."""


class Pieces:
    """Records of the processes of one stage: the earlier ones, and the running one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.before = _read(path)
        """Records of earlier processes, oldest first; each has `duration_s`, and energy where it was measured."""
        self._began = time.monotonic()
        self._energy: Callable[[], dict[str, Any]] = dict
        self._known: dict[str, Any] = {}
        self._read_at = -math.inf
        self._lock, self._stop = threading.Lock(), threading.Event()

    @contextlib.contextmanager
    def metered(self, energy: Callable[[], dict[str, Any]]) -> Iterator[None]:
        """Take this process's record from `energy` while the block runs; afterwards keep its last result."""
        self._energy, self._read_at = energy, -math.inf
        try:
            yield
        finally:
            with self._lock:  # a reading under way ends before the meter does
                last = energy()
                self._energy, self._read_at = (lambda: last), -math.inf

    def note(self) -> list[dict[str, Any]]:
        """Write all records so far; return this process's alone, as the list that a checkpoint keeps."""
        with self._lock:
            if time.monotonic() - self._read_at >= ENERGY_SECONDS:
                self._known, self._read_at = self._energy(), time.monotonic()
            record = {**self._known, "duration_s": time.monotonic() - self._began}
            atomic.write_json(self._path, [*self.before, record])
        return [record]

    def recover(self, records: list[dict[str, Any]]) -> None:
        """Take earlier records from a checkpoint if the file gave none."""
        if not self.before:
            self.before = list(records)

    def facts(self) -> dict[str, Any]:
        """Return `processes`, their number, and `wall_seconds`, their total, work repeated after a kill included."""
        earlier = sum(float(record.get("duration_s", 0.0)) for record in self.before)
        return {"processes": len(self.before) + 1, "wall_seconds": earlier + time.monotonic() - self._began}

    def _keep_noting(self) -> None:
        while not self._stop.wait(NOTE_SECONDS):
            with contextlib.suppress(OSError):  # a full disk stops the stage itself, where it can say so
                self.note()


@contextlib.contextmanager
def counted(path: Path) -> Iterator[Pieces]:
    """Record the block in `path` as one more process. If it succeeds, delete `path`: the artefact has the sums then."""
    pieces = Pieces(path)
    pieces.note()
    thread = threading.Thread(target=pieces._keep_noting, name="pieces", daemon=True)
    thread.start()
    try:
        yield pieces
    except BaseException:
        _end(pieces, thread)
        with contextlib.suppress(OSError):
            pieces.note()
        raise
    _end(pieces, thread)
    path.unlink(missing_ok=True)


def _end(pieces: Pieces, thread: threading.Thread) -> None:
    pieces._stop.set()
    thread.join()


def _read(path: Path) -> list[dict[str, Any]]:
    """Return earlier records, or none if they cannot be read and summed: a stage must not fail because of them."""
    if not path.exists():
        return []
    try:
        found = atomic.read_json(path)
        records = [{**record, "duration_s": float(record["duration_s"])} for record in found]
        add(records)
        return records
    except (ArtifactError, AttributeError, TypeError, KeyError, ValueError) as error:
        log.warning("time and energy of earlier processes are not counted: %s", error)
        return []
