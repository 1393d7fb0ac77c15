"""Standard output and error as a command finds them: closed, full, unread, or of a terminal that is gone."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from pathlib import Path
from typing import TextIO

STREAMS = {1: "stdout", 2: "stderr"}


def open_closed() -> None:
    """Give a command that was started without standard output or error (`2>&-`) one that goes nowhere.

    Its number too: the next file to be opened would get it, and with it whatever a library in C says there.
    """
    for number, name in STREAMS.items():
        if getattr(sys, name) is None:
            try:
                os.fstat(number)  # taken by a file that was opened since: left alone
            except OSError:
                _to_nowhere(number)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as we live


def leave_terminal() -> None:
    """Let what is written to a terminal that was closed go nowhere: from then on the system refuses it."""
    for number in STREAMS:
        if _gone(number):
            _to_nowhere(number)


def is_unread() -> bool:
    """Whether nobody reads standard output any more, as in `| head -1`."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it has no descriptor: closed, or a test's
        return _gone(sys.stdout.fileno())
    return False


def is_stuck() -> bool:
    """Whether standard output does not take what still waits to be printed, as on a full disk."""
    return _is_stuck(sys.stdout)


def say(line: str) -> None:
    """A line on standard error, or nowhere: that it cannot be said is no reason to end otherwise."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def drop_unwritten() -> None:
    """Let what the two do not take go nowhere: Python would try again at exit, and end with a status of its own."""
    if is_unread() or is_stuck():
        _to_nowhere(sys.stdout.fileno())
    if _is_stuck(sys.stderr):
        _to_nowhere(sys.stderr.fileno())


def shown(path: Path) -> str:
    """A path as a person would type it from here: relative where it lies below the current folder."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # removed since
        return str(path)
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _is_stuck(stream: TextIO) -> bool:
    try:
        stream.flush()
    except OSError:
        return True
    except ValueError:  # closed on purpose: nothing waits
        return False
    return False


def _gone(number: int) -> bool:
    other_end = select.poll()
    other_end.register(number, select.POLLERR)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in other_end.poll(0))


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == number:
        os.set_inheritable(number, True)  # as `dup2` makes it: workers have one too
    else:
        os.dup2(nowhere, number)
        os.close(nowhere)
