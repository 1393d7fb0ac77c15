"""Break runs on purpose and count losses: faults.py [kills=20] [chain=5] [files=40] [seed=1] [experiment=smoke]."""

from __future__ import annotations

import logging

from pipeline.config.command_arguments import Faults
from pipeline.config.compose import command
from pipeline.core.errors import EXIT_STATUS


def main(asked: Faults) -> None:
    """Run one campaign; exit with status 0 only when nothing was lost."""
    from pipeline.faults import campaign  # late: a mistyped argument is refused without loading torch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    record, path = campaign.run(asked)
    for sentence in record.lost:
        print(sentence)
    print(f"{record.kills.total()} kills, {record.faults.total()} file faults, {len(record.lost)} lost; {path}")
    raise SystemExit(EXIT_STATUS if record.lost else 0)


if __name__ == "__main__":
    command(Faults, main)()
