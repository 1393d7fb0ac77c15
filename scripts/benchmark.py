"""Compare with sentence-transformers: benchmark.py case=train_bert_tiny|…|quickstart|growth [pairs=5] [rows=…]."""

from __future__ import annotations

import logging

from pipeline.benchmark.cases import Benchmark, Case
from pipeline.config.compose import command


def main(asked: Benchmark) -> None:
    """Run one case; `growth` measures this pipeline alone, over growing numbers of rows."""
    # Imported late: a mistyped argument is refused without loading torch.
    from pipeline.benchmark import growth, paired, results
    from pipeline.core.atomic import read_json

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    alone = asked.case is Case.growth
    path = (growth.growth if alone else paired.benchmark)(asked)
    print(f"{(growth if alone else results).table(read_json(path))}\n{path}")


if __name__ == "__main__":
    command(Benchmark, main)()
