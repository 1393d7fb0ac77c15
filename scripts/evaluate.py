"""Evaluate a trained model, after the stages that needs, and stop."""

from __future__ import annotations

from pipeline.config.compose import application
from pipeline.config.schema import Config, Stage


def main(config: Config) -> None:
    """Run the composed configuration up to its evaluation."""
    from pipeline.stages.run import run  # late: a mistyped key is refused without loading torch

    run(config, stop_after=Stage.evaluate)


if __name__ == "__main__":
    application(main)()
