"""Signals that ask a command to stop, SIGHUP of a closed terminal among them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from pipeline.core import console


def stop_signals() -> list[signal.Signals]:
    """Return the signals, besides SIGINT, that ask a command to stop; SIGHUP is left out if ignored (`nohup`)."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


def restore(before: dict[signal.Signals, Any], ours: Callable[[int, Any], None]) -> None:
    """Give signals back the handlers they had `before`, except for a SIGHUP that arrived: see `hung_up`."""
    for number, handler in before.items():
        if signal.getsignal(number) is ours:
            signal.signal(number, handler)


def hung_up() -> None:
    """Handle a closed terminal: stop writing to it, and ignore SIGHUP, which its shell sends again."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    console.leave_terminal()
