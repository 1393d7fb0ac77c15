"""Where a training step's time goes: a trace and a table of a few steps. Takes the keys of train.py, and steps=5."""

from __future__ import annotations

from pipeline.config.command_arguments import Profile
from pipeline.config.compose import application_with
from pipeline.config.schema import Config


def main(asked: Profile, config: Config) -> None:
    """Profile one composed configuration."""
    from pipeline.commands.profiling import run_profile  # late: a mistyped key is refused without loading torch

    run_profile(asked, config)


if __name__ == "__main__":
    application_with(Profile, main)()
