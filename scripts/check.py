"""Check the hub, device, disk, memory and expected time of an experiment in a minute, before spending hours."""

from __future__ import annotations

from pipeline.config.compose import application
from pipeline.config.schema import Config


def main(config: Config) -> None:
    """Check one composed configuration."""
    from pipeline.commands.preflight import report  # late: a mistyped key is refused without loading torch

    report(config)


if __name__ == "__main__":
    application(main)()
