"""Verify a finished run's files, figures and training: verify.py [run=<folder>] [outputs_dir=outputs]."""

from __future__ import annotations

from pipeline.config.command_arguments import Verification
from pipeline.config.compose import command
from pipeline.core.errors import EXIT_STATUS


def main(asked: Verification) -> None:
    """Verify one run; exit with an error status when something differs."""
    from pipeline.commands.verification import verify  # late: a mistyped argument is refused without loading torch

    verdict = verify(asked)
    print(verdict)
    if not verdict.verified:
        raise SystemExit(EXIT_STATUS)


if __name__ == "__main__":
    command(Verification, main)()
