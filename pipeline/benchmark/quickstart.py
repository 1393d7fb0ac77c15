"""The whole quickstart: the input of both sides, and our side of it. Knows nothing of how often it is run.

Our side runs the real stages, so that the time a run spends on verification, hashing and syncing is measured too.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.benchmark.cases import Settings
from pipeline.benchmark.ours import Clock, Columns, Done
from pipeline.config.compose import composed
from pipeline.config.learning import Precision
from pipeline.config.schema import Config
from pipeline.core import upkeep
from pipeline.core.atomic import read_json, write_json
from pipeline.core.records import AS_RETRIEVED, BI_ENCODER, MEASURES, TRAINED, UNTRAINED, RerankingSet
from pipeline.data import storage
from pipeline.data.packaged_docs import extract
from pipeline.engine import model_files
from pipeline.stages.card import card
from pipeline.stages.evaluate import evaluate, evaluation_folder
from pipeline.stages.mine import mine
from pipeline.stages.models import load as load_reranker
from pipeline.stages.plan import RunPlan
from pipeline.stages.train import train

ROWS = "rows.json"
"""Input of the reference: training rows and sets as texts. Our side mines its own."""

SYSTEMS = (UNTRAINED, TRAINED, BI_ENCODER)
"""Systems that both sides evaluate on the dev set."""

FEWEST_PAIRS = 200
"""Lower bound of `data.limit`: the dev and validation sets need enough questions to be split from."""

Samples = list[dict[str, Any]]
"""A set as `CrossEncoderRerankingEvaluator` takes it: query, positive texts, documents in first-stage order."""


def prepare(rows: int, work: Path, overrides: Sequence[str] = ()) -> None:
    """Write `cache/` (docstrings), `model/` (weights with their head), `texts.json` (our command) and `rows.json`.

    `rows` counts training pairs. Fewer than the quickstart's shorten its data, dev and validation sets in proportion.
    """
    whole = configuration(overrides, work / "prepared")
    pairs = len(extract(whole.data.packages, work / "cache", whole.runtime.workers).rows)
    command = [*overrides, *scaled(whole, rows, pairs)]
    run = _run(command, work / "prepared", work / "cache")
    mine(run)
    model_files.save(load_reranker(run, run.base.folder, run.config.model), work / "model", run.config.model)
    mined = storage.read_rows(run.mined_folder)
    columns = {
        "question": [mined.questions[q] for q in mined.question],
        "answer": [mined.passages[p] for p in mined.passage],
        "label": mined.label.tolist(),
    }
    sets = {name: _samples(storage.read_set(run.mined_folder / name)) for name in ("dev", "validation")}
    write_json(work / ROWS, {"train": columns, **sets})
    write_json(work / "texts.json", {"command": command, "base": str(run.base.folder)})


def configuration(overrides: Sequence[str], outputs: Path) -> Config:
    """Compose the quickstart without energy measurement, which the reference does not do."""
    return composed(["experiment=quickstart", "emissions=off", f"outputs_dir='{outputs}'", *overrides])


def precision_of(work: Path) -> Precision:
    """Return the precision our command trains in; the reference trains and evaluates in it."""
    config = configuration(read_json(work / "texts.json")["command"], work / "outputs")
    return config.training.precision


def scaled(whole: Config, rows: int, pairs: int) -> list[str]:
    """Return the overrides that shorten the quickstart, of `pairs` docstrings in all, to `rows` training pairs."""
    steps = -(-rows // whole.training.batch_size)
    share = min(1.0, steps / (whole.training.max_steps or steps))
    return [
        f"training.max_steps={steps}",
        f"training.eval_steps={max(1, round(whole.training.eval_steps * share))}",
        f"data.limit={max(FEWEST_PAIRS, round(pairs * share))}",
        f"data.dev_queries={round(whole.data.dev_queries * share)}",
        f"data.validation_queries={max(1, round(whole.data.validation_queries * share))}",
    ]


def _run(command: Sequence[str], outputs: Path, cache: Path) -> RunPlan:
    """Return a run whose docstrings are already read, as on any machine that has run the quickstart before."""
    run = RunPlan(configuration(command, outputs))
    shutil.copytree(cache, run.cache)
    return run


def _samples(found: RerankingSet) -> Samples:
    return [
        {
            "query": text,
            "positive": [found.passages[p] for p, grade in found.qrels[query].items() if grade > 0],
            "documents": [found.passages[p] for p in found.candidates[query]],
        }
        for query, text in found.queries.items()
    ]


class Phases:
    """Wall seconds by phase, summed over the phase's blocks."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Add the block's wall seconds to `<phase>_seconds`."""
        began = time.perf_counter()
        yield
        name = f"{phase}_seconds"
        self.figures[name] = self.figures.get(name, 0.0) + time.perf_counter() - began


def ours(settings: Settings, texts: Columns, model: Path, device: torch.device, precision: Precision) -> Done:
    """Run the stages in order from an empty outputs folder. The card is written too, but counts for upkeep alone."""
    import sentence_transformers  # noqa: F401  # the bi-encoder imports it in the middle: seconds that are no work

    run = _run(texts["command"], model.parent / "outputs", model.parent / "cache")
    phases, before, clock = Phases(), upkeep.seconds(), Clock()
    stages: dict[str, Callable[[RunPlan], object]] = {"mine": mine, "train": train, "evaluate": evaluate}
    for name, stage in stages.items():
        with phases.of(name):
            stage(run)
    seconds = clock.read()
    card(run)
    whole, kept = clock.read()[0], upkeep.seconds(before)
    figures = {
        **phases.figures,
        **{f"upkeep_{kind}_seconds": spent for kind, spent in kept.items()},
        "upkeep_seconds": sum(kept.values()),
        "upkeep_share": sum(kept.values()) / whole,
    }
    dev = read_json(evaluation_folder(run, run.config.data.dev_name) / "measures.json")[AS_RETRIEVED]
    same = {f"measures_{system}": {name: dev[system][name] for name in MEASURES} for system in SYSTEMS}
    facts = read_json(run.folder / "model" / "training.json")
    pairs = facts["steps"] * facts["batch_size"]
    return Done(seconds, pairs, None, None, {"rows": facts["rows"], **same}, figures)
