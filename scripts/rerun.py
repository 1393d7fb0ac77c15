"""Run exactly what a manifest records again: rerun.py manifest=<file or folder> [outputs_dir=<folder>]."""

from __future__ import annotations

from pipeline.config.asked import Rerun
from pipeline.config.compose import command, keep_log


def main(asked: Rerun) -> None:
    """One run."""
    from pipeline.commands.rerunning import configuration, rerun  # late: a mistyped argument is answered without torch

    keep_log(configuration(asked)[0].outputs_dir, "rerun")
    rerun(asked)


if __name__ == "__main__":
    command(Rerun, main)()
