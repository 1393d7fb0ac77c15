"""Lay figures beside the published ones: reproduce.py run=<folder> | stage=first | weights=<hub id or folder>."""

from __future__ import annotations

from pipeline.config.command_arguments import Reproduction
from pipeline.config.compose import application_with
from pipeline.config.schema import Config


def main(asked: Reproduction, config: Config) -> None:
    """Make one comparison."""
    from pipeline.commands.reproduction import reproduce  # late: a mistyped key is refused without loading torch

    reproduce(asked, config)


if __name__ == "__main__":
    application_with(Reproduction, main)()
