"""Write a run's card, after the stages it needs."""

from __future__ import annotations

from pipeline.config.compose import application
from pipeline.config.schema import Config, Stage


def main(config: Config) -> None:
    """Run the composed configuration up to its card."""
    from pipeline.stages.run import run  # late: a mistyped key is refused without loading torch

    run(config, stop_after=Stage.card)


if __name__ == "__main__":
    application(main)()
