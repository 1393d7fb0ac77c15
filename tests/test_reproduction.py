"""`reproduce` with a run that differs from the published figures: the cause it names, and the figures it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from composed_config import composed
from published_run import build
from script_process import ROOT, Done, script_process

from pipeline.commands import reproduction
from pipeline.core import artifacts
from pipeline.core.atomic import write_json
from pipeline.core.fingerprint import plain
from pipeline.core.markdown import escape

RECIPE = ["experiment=gooaq_bert_tiny"]
CHANGED = [*RECIPE, "seed=5", "data.rows=3000", "training.max_steps=30", "mining.dev_depth=50",
           "training.batch_size=64", "training.eval_steps=20", "training.precision=fp32"]  # fmt: skip


def doubled_losses(fact: dict[str, Any]) -> float:
    value = float(fact["value"])
    return value * 2 if fact["kind"] == "loss" else 0.00003 if fact["kind"] == "energy" else value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("run"), "gooaq_bert_tiny", doubled_losses)


@pytest.fixture(scope="module")
def reproductions(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """Return how `reproduce` of the run ended, with a changed configuration recorded in it and then the recipe's."""
    root, found = tmp_path_factory.mktemp("reproductions"), {}
    with script_process(root) as process:
        for name, overrides in (("changed", CHANGED), ("recipe", RECIPE)):
            manifest = artifacts.manifest_of(run / "model") or {}
            manifest["provenance"]["config"] = plain(composed(*overrides))
            write_json(run / "model" / artifacts.MANIFEST, artifacts.sealed(manifest))
            arguments = ("experiment=quickstart", f"run={run}", f"outputs_dir={root}")
            found[name] = process.run("scripts/reproduce.py", *arguments)
    return found


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        (
            "changed",
            "differs from the recipe in seed, data.rows, mining.dev_depth, training.batch_size, training.max_steps "
            "and 1 more key.",
        ),
        ("recipe", "is the recipe's, so the usual cause is a revision that moved."),
    ],
    ids=["another configuration", "the recipe's configuration"],
)
def test_failed_reproduction_names_the_likely_cause(reproductions: dict[str, Done], name: str, cause: str) -> None:
    done = reproductions[name]
    assert done.status == 2 and f"marked FAIL above; the configuration {cause}" in done.err, done


def test_reproduction_prints_every_figure_and_names_the_card(reproductions: dict[str, Done], run: Path) -> None:
    out, card = reproductions["recipe"].out, (run / "README.md").read_text()
    assert f"and in the section Reproduction of {run / 'README.md'}" in out
    rows = [line for line in out.splitlines() if line.startswith(("OK", "FAIL"))]
    assert any(re.search(r"energy/training +\d\.\d{4} +0\.000030 ", row) for row in rows), "two digits of a small one"
    assert len({row[54:].split()[0] for row in rows if "±" in row}) > 9, "the columns are where the head has them"
    untrained = [row for row in rows if " log/0/" in row]
    assert untrained and all(row.startswith("OKish") and "untrained, so no check" in row for row in untrained)
    names = [row.split()[1] for row in rows]
    assert all(card.count(f"| {escape(name)} |") == 1 for name in names), "each row once"


def test_differing_keys_are_those_that_figures_depend_on() -> None:
    words = ["experiment=gooaq_bert_tiny", "seed=5", "data.rows=3000", "training.batch_size=64", "model.max_length=64",
             "training.keep_checkpoints=5", "model.activation=identity", "model.layers=1"]  # fmt: skip
    values = plain(composed(*words))

    def cause(parts: tuple[str, ...]) -> str:
        return reproduction._likely_cause("gooaq_bert_tiny", values, parts)

    start, end = "the configuration differs from the recipe in ", ". That, or a revision that moved, may be the cause"
    trained = "seed, data.rows, model.max_length, model.layers, training.batch_size"
    assert cause(reproduction.PARTS) == f"{start}{trained}{end}"
    assert cause(reproduction.PARTS_MINED) == f"{start}data.rows{end}"
    assert cause((*reproduction.PARTS_MINED, "model.max_length")) == f"{start}data.rows, model.max_length{end}"


def test_first_stage_ignores_differing_keys_of_training(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    fact = {"id": "rows", "status": "user", "kind": "rows", "name": "rows", "value": 1}
    facts.write_text(json.dumps({"smoke": {"hub_id": "o/n", "facts": [fact]}}))
    command = [sys.executable, "scripts/reproduce.py", "experiment=smoke", "stage=first", f"facts={facts}",
               "training.batch_size=4", "seed=5", f"outputs_dir={tmp_path / 'outputs'}"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "the configuration is the recipe's, so the usual cause is" in done.stderr, done
