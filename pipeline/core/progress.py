"""Progress of a long step: a bar on a terminal, a log line per minute elsewhere. Knows nothing of what runs."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

Item = TypeVar("Item")

LONG_SECONDS = 10.0
"""A step that took longer leaves one line in the log."""
LINE_SECONDS = 60.0
"""Seconds between progress lines off a terminal: a log that stands still looks like a run that hangs."""
COUNTED = 1_000
"""Items of `counted` between two advances: a bar drawn at every row would slow the loop."""


class Bar:
    """Progress of one step; made by `bar`."""

    def __init__(self, what: str, total: int | None, done: int, shown: Progress | None) -> None:
        self._what = what
        self._total = total
        self._shown = shown
        self._task = None if shown is None else shown.add_task(what, total=total, completed=done)
        self._start = self._said = time.monotonic()
        self._found = done
        self.done = done
        """Units finished so far."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Report that `n` more units are finished; a log line also shows `note`."""
        self.done += n
        if self._shown is not None and self._task is not None:
            self._shown.advance(self._task, n)
        elif self.done != self._total and time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            log.info("%s: %s%s", self._what, self._standing(), note and f", {note}")

    def seconds(self) -> float:
        """Return the seconds since the step began."""
        return time.monotonic() - self._start

    def _standing(self) -> str:
        """Return how much is done and, if the total is known, the time left at the speed so far."""
        if self._total is None or self.done == self._found:
            return f"{self.done:,} in {duration(self.seconds())}"
        left = self.seconds() / (self.done - self._found) * (self._total - self.done)
        return f"{self.done:,} of {self._total:,}, about {duration(max(left, 0.0))} left"


@contextlib.contextmanager
def bar(what: str, total: int | None = None, done: int = 0) -> Iterator[Bar]:
    """Show `what` with done/total and the remaining time while the block runs.

    The bar is drawn on standard error if that is a terminal, and wiped at the end; otherwise the log gets a line every
    `LINE_SECONDS`. With `total` None the bar has no end; `done` units were finished before. If the block takes longer
    than `LONG_SECONDS`, its time is logged in either case.
    """
    # Not rich's own test: that takes FORCE_COLOR for a terminal, and a CI log would fill with frames.
    shown = _progress(has_end=total is not None) if sys.stderr.isatty() else None
    with shown if shown is not None else contextlib.nullcontext():
        moving = Bar(what, total, done, shown)
        yield moving
    if moving.seconds() > LONG_SECONDS:
        log.info("%s: %s in %s", what, f"{moving.done:,}", duration(moving.seconds()))


def counted(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Yield the items of a long loop while a `bar` advances, `COUNTED` items at a time."""
    number = 0
    with bar(what) as moving:
        for number, item in enumerate(items, 1):
            yield item
            if number % COUNTED == 0:
                moving.advance(COUNTED)
        moving.advance(number % COUNTED)


def duration(seconds: float) -> str:
    """Format seconds for a person: `8.4 s`, `2 min 5 s`, `3 h 12 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Prints the pipeline's own log lines on standard output; `conf/hydra/job_logging/plain.yaml` installs it.

    It looks up `sys.stdout` for every line: a running bar replaces that stream to print above itself, and a handler
    that kept the first one would write into the bar. Log lines of other libraries go to the log file alone.
    """

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record of a logger below `pipeline`; ignore any other."""
        if record.name.split(".")[0] == "pipeline":
            self.stream = sys.stdout
            super().emit(record)


def _progress(*, has_end: bool) -> Progress:
    left = (TimeRemainingColumn(), TextColumn("left")) if has_end else ()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *left,
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,
    )
