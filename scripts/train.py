"""Run the whole pipeline, or what is missing of it: mine, train, evaluate, card."""

from __future__ import annotations

from pipeline.config.compose import application
from pipeline.config.schema import Config


def main(config: Config) -> str | None:
    """One composed run, and its figures in a line."""
    from pipeline.stages.run import headline, run  # late: a mistyped key is answered without loading torch

    folder = run(config)
    return None if folder is None else headline(folder)


if __name__ == "__main__":
    application(main)()
