"""Write a run's card, with whatever that needs."""

from __future__ import annotations

from pipeline.config.compose import application
from pipeline.config.schema import Config, Stage


def main(config: Config) -> None:
    """One composed run."""
    from pipeline.stages.run import run  # late: a mistyped key is answered without loading torch

    run(config, stop_after=Stage.card)


if __name__ == "__main__":
    application(main)()
