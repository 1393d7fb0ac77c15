"""Repeat exactly the run that a manifest records: rerun.py manifest=<file or folder> [outputs_dir=<folder>]."""

from __future__ import annotations

from pipeline.config.command_arguments import Rerun
from pipeline.config.compose import command, keep_log


def main(asked: Rerun) -> None:
    """Repeat one run."""
    from pipeline.commands.rerunning import configuration, rerun  # late: a mistyped argument is refused without torch

    keep_log(configuration(asked)[0].outputs_dir, "rerun")
    rerun(asked)


if __name__ == "__main__":
    command(Rerun, main)()
