"""Evaluate a trained model, with whatever that needs, and stop."""

from __future__ import annotations

from pipeline.config.compose import application
from pipeline.config.schema import Config, Stage


def main(config: Config) -> None:
    """One composed run."""
    from pipeline.stages.run import run  # late: a mistyped key is answered without loading torch

    run(config, stop_after=Stage.evaluate)


if __name__ == "__main__":
    application(main)()
