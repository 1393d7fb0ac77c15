"""Ours beside sentence-transformers on the same work: benchmark.py case=train_bert_tiny [pairs=5] [rows=…]."""

from __future__ import annotations

import logging

from pipeline.benchmark.cases import Benchmark
from pipeline.config.compose import command


def main(asked: Benchmark) -> None:
    """One case."""
    from pipeline.benchmark.paired import benchmark, table
    from pipeline.core.artifacts import read_json  # late: a mistyped argument is answered without loading torch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = benchmark(asked)
    print(f"{table(read_json(path))}\n{path}")


if __name__ == "__main__":
    command(Benchmark, main)()
