"""Standard output and error that may be closed, full, unread, or attached to a terminal that is gone."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from pathlib import Path
from typing import TextIO

STREAMS = {1: "stdout", 2: "stderr"}


def open_closed() -> None:
    """Open the null device in place of a standard output or error that was closed at the start (`2>&-`).

    Its descriptor is occupied too: otherwise the next opened file would get it, and a C library would print into that.
    """
    for number, name in STREAMS.items():
        if getattr(sys, name) is None:
            try:
                os.fstat(number)  # taken by a file opened since: left alone
            except OSError:
                _to_nowhere(number)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process


def leave_terminal() -> None:
    """Redirect output to the null device where its terminal was closed: the system refuses writes to it."""
    for number in STREAMS:
        if _gone(number):
            _to_nowhere(number)


def is_unread() -> bool:
    """Return whether nobody reads standard output any more, as in `| head -1`."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no descriptor: closed, or replaced by a test
        return _gone(sys.stdout.fileno())
    return False


def is_stuck() -> bool:
    """Return whether standard output cannot take what is still buffered, as on a full disk."""
    return _is_stuck(sys.stdout)


def say(line: str) -> None:
    """Print a line on standard error; a failure to print must not change how the command ends."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def drop_unwritten() -> None:
    """Discard what standard output and error cannot take: Python would retry at exit and end with its own status."""
    if is_unread() or is_stuck():
        _to_nowhere(sys.stdout.fileno())
    if _is_stuck(sys.stderr):
        _to_nowhere(sys.stderr.fileno())


def shown(path: Path) -> str:
    """Return a path as a person would type it here: relative if it lies below the current folder."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the current folder was removed
        return str(path)
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def in_bytes(size: float) -> str:
    """Return a number of bytes in the decimal unit that suits it: `1 byte`, `512 bytes`, `24.6 kB`, `1.3 GB`."""
    if round(size) < 1000:
        return number_of(round(size), "byte")
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if round(size / scale, 1) < 1000:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e9:,.1f} GB"


def number_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun in the form that goes with it: `1 thread`, `2 threads`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _is_stuck(stream: TextIO) -> bool:
    try:
        stream.flush()
    except OSError:
        return True
    except ValueError:  # closed on purpose: nothing is buffered
        return False
    return False


def _gone(number: int) -> bool:
    other_end = select.poll()
    other_end.register(number, select.POLLERR)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in other_end.poll(0))


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == number:
        os.set_inheritable(number, True)  # as `dup2` does: workers inherit it
    else:
        os.dup2(nowhere, number)
        os.close(nowhere)
