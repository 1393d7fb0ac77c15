"""Verify a finished run, files, figures and training: verify.py [run=<folder>] [outputs_dir=outputs]."""

from __future__ import annotations

from pipeline.config.asked import Verification
from pipeline.config.compose import command
from pipeline.core.errors import EXIT_STATUS


def main(asked: Verification) -> None:
    """One verification; what differs is an exit status of its own."""
    from pipeline.commands.verification import verify  # late: a mistyped argument is answered without loading torch

    verdict = verify(asked)
    print(verdict)
    if not verdict.verified:
        raise SystemExit(EXIT_STATUS)


if __name__ == "__main__":
    command(Verification, main)()
