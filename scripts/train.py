"""Run the whole pipeline, or the stages still missing: mine, train, evaluate, card."""

from __future__ import annotations

from pipeline.config.compose import application
from pipeline.config.schema import Config


def main(config: Config) -> str | None:
    """Run the composed configuration; return its figures in a line."""
    from pipeline.stages.run import headline, run  # late: a mistyped key is refused without loading torch

    folder = run(config)
    return None if folder is None else headline(folder)


if __name__ == "__main__":
    application(main)()
