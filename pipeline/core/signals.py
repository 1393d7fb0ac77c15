"""Signals that ask a command to stop, and what becomes of a closed terminal's."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from pipeline.core import console


def stop_signals() -> list[signal.Signals]:
    """Signals beside Ctrl-C's that ask a command to stop: a closed terminal's is none where it is ignored (`nohup`)."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


def restore(before: dict[signal.Signals, Any], ours: Callable[[int, Any], None]) -> None:
    """Give signals the handlers they had `before`, but for a closed terminal's that came: see `hung_up`."""
    for number, handler in before.items():
        if signal.getsignal(number) is ours:
            signal.signal(number, handler)


def hung_up() -> None:
    """The terminal is closed: nothing is written to it, and its shell, which sends the signal again, ends nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    console.leave_terminal()
