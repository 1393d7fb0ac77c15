"""Whole runs on real text, tiny: from mining to the card in seconds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from beir_folders import write_beir
from composed_config import composed
from hub_fixtures import sentences
from pair_files import write_jsonl

from pipeline.config.schema import Config
from pipeline.core import artifacts
from pipeline.stages.run import run

TINY = [
    *["experiment=smoke", "data.limit=150", "data.dev_queries=20", "data.validation_queries=0", "runtime=cpu"],
    *["training.eval_sets=[]", "training.max_steps=6", "training.eval_steps=3", "mining.dev_depth=5"],
    *["runtime.workers=1", "runtime.threads=1", "emissions=off", "model.dropout=0.1"],
    *["evaluation.bi_encoder=false", "evaluation.fusion=false"],
]
"""Overrides that make a run take seconds; dropout is on, so that the generators' states matter."""

NOT_RESULTS = (".lock", "latest", "hub.lock.json")
GRADES = "".join(f"q{i}\td{i}\t1\n" for i in range(8))
"""Lines of qrels: each of eight queries is answered by the passage of its number."""


def tiny_config(outputs: Path, *overrides: str) -> Config:
    return composed(*TINY, f"outputs_dir={outputs}", *overrides)


def run_tiny(outputs: Path, *overrides: str) -> Path:
    """Run the stages whose results are missing below `outputs` and return the run's folder."""
    folder = run(tiny_config(outputs, *overrides))
    assert folder is not None
    return folder


def snapshot(outputs: Path) -> dict[str, int]:
    """Return every file under `outputs/` that holds a result, with the time it was written."""
    return {
        str(path.relative_to(outputs)): path.stat().st_mtime_ns
        for path in outputs.rglob("*")
        if path.is_file() and not path.is_symlink() and not path.name.endswith(NOT_RESULTS)
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def mined_set(run: Path) -> Path:
    """Return the mined set a run was trained on."""
    manifest = artifacts.manifest_of(run / "model")
    assert manifest is not None
    return only(run.parents[1] / "mined", f"*-{manifest['key']['mine']}")


def measures(run: Path) -> Any:
    """Return the figures of a run's sets, by their names."""
    return json.loads((run / "summary.json").read_text())["measures"]


def local_pairs(path: Path, rows: int = 130) -> list[str]:
    """Write a file of pairs and return the overrides that train on it."""
    write_jsonl(path, [{"question": question, "answer": answer} for question, answer in sentences(rows)])
    return ["data=local", f"data.path={path}", "data.limit=null"]


def collection(folder: Path, pairs: list[tuple[str, str]], grades: str = GRADES) -> Path:
    """Write a BEIR folder: the answers are its passages d0, d1, …, the first eight questions its queries q0 to q7."""
    queries = {f"q{i}": question for i, (question, _) in enumerate(pairs[:8])}
    write_beir(folder, queries, {f"d{i}": answer for i, (_, answer) in enumerate(pairs)})
    write_grades(folder, grades)
    return folder


def write_grades(collection: Path, grades: str) -> None:
    (collection / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + grades)
