"""Upload a finished run's model and card to the hub: push.py repo=<owner/name> [run=<folder>] [private=true]."""

from __future__ import annotations

from pipeline.config.command_arguments import Publication
from pipeline.config.compose import command


def main(asked: Publication) -> None:
    """Upload one run."""
    from pipeline.commands.push import push  # late: a mistyped argument is refused without loading the hub's client

    print(push(asked))


if __name__ == "__main__":
    command(Publication, main)()
