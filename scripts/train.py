"""Run the whole pipeline, or what is missing of it: mine, train, evaluate, card."""

from __future__ import annotations

from pipeline.config.compose import application
from pipeline.config.schema import Config


def main(config: Config) -> None:
    """One composed run."""
    from pipeline.stages.run import run  # late: a mistyped key is answered without loading torch

    run(config)


if __name__ == "__main__":
    application(main)()
