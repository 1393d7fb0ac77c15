"""Faults that tests inject into code in this process: its death, and a pickle that runs code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the pipeline handles it."""


class MaliciousPickle:
    """Makes a folder where it is unpickled by code that trusts pickles."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)
