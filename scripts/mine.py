"""Mine negatives and candidates, and stop."""

from __future__ import annotations

from pipeline.config.compose import application
from pipeline.config.schema import Config, Stage


def main(config: Config) -> None:
    """Run the composed configuration up to its mining."""
    from pipeline.stages.run import run  # late: a mistyped key is refused without loading torch

    run(config, stop_after=Stage.mine)


if __name__ == "__main__":
    application(main)()
