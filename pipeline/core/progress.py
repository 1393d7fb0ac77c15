"""How long a long step will still take: a bar on a terminal, one log line elsewhere. Knows nothing of what runs."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

LONG_SECONDS = 10.0
"""A step that took longer leaves one line in the log."""


class Bar:
    """What a step moves along; `bar` makes one."""

    def __init__(self, shown: Progress | None, task: TaskID | None) -> None:
        self._shown = shown
        self._task = task
        self.done = 0
        """Units finished so far."""

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are finished."""
        self.done += n
        if self._shown is not None and self._task is not None:
            self._shown.advance(self._task, n)


@contextlib.contextmanager
def bar(what: str, total: int | None = None) -> Iterator[Bar]:
    """Show `what` with done/total and the remaining time while the block runs.

    Drawn on standard error only where that is a terminal, and wiped at the end. `total` None draws a bar without an
    end. A block that ran longer than `LONG_SECONDS` logs its time, also when it is not shown.
    """
    start = time.monotonic()
    # Not rich's own test: that takes FORCE_COLOR for a terminal, and a CI log would fill with frames.
    shown = _progress() if sys.stderr.isatty() else None
    with shown if shown is not None else contextlib.nullcontext():
        moving = Bar(shown, shown.add_task(what, total=total) if shown is not None else None)
        yield moving
    taken = time.monotonic() - start
    if taken > LONG_SECONDS:
        log.info("%s: %s in %s", what, f"{moving.done:,}", duration(taken))


def duration(seconds: float) -> str:
    """Seconds as a person says them: `8.4 s`, `2 min 5 s`, `3 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Our own log lines on standard output; `conf/hydra/job_logging/plain.yaml` installs it.

    It asks for `sys.stdout` at every line: a running bar replaces that stream to print above itself, and a handler
    that kept the first one would write into the bar. What other libraries log goes to the log file alone.
    """

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line of a logger below `pipeline`."""
        if record.name.split(".")[0] == "pipeline":
            self.stream = sys.stdout
            super().emit(record)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,
    )
