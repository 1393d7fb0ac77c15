"""Score a passage with a finished run: predict.py q='…' p='…' [run=<folder>], or file=<JSONL> for many."""

from __future__ import annotations

from pipeline.compose import command
from pipeline.prediction import Prediction, predict


def main(asked: Prediction) -> None:
    """One question."""
    print(predict(asked))


if __name__ == "__main__":
    command(Prediction, main)()
