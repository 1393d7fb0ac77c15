"""Score a passage with a finished run: predict.py q='…' p='…' [run=<folder>], or file=<JSONL> for many."""

from __future__ import annotations

from pipeline.commands.prediction import predict
from pipeline.config.command_arguments import Prediction
from pipeline.config.compose import command


def main(asked: Prediction) -> None:
    """Score the passages of one question."""
    print(predict(asked))


if __name__ == "__main__":
    command(Prediction, main)()
