"""Both published recipes from the first byte to the card, through the real hub client, against the loopback hub.

Scaled down by row counts, steps and model width only; the configuration is each experiment's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hub_fixtures import NANO_SETS, all_repositories, gooaq, nano_beir
from loopback_hub import TOKEN, LoopbackHub
from published_run import settled_by_a_card

from pipeline.reporting.comparison import published

ROOT = Path(__file__).resolve().parents[1]
SMALLER = ["data.rows=110", "training.max_steps=4", "training.eval_steps=2", "emissions.enabled=false", "runtime=cpu"]
BATCH = {"gooaq_bert_tiny": 32, "gooaq_modernbert_large": 8}
BASE = {"gooaq_bert_tiny": "prajjwal1/bert-tiny", "gooaq_modernbert_large": "answerdotai/ModernBERT-large"}


@dataclass
class Recipes:
    root: Path
    hub: LoopbackHub
    commits: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)

    def train(self, experiment: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "scripts/train.py",
            f"experiment={experiment}",
            f"outputs_dir={self.root / 'outputs'}",
        ]
        return subprocess.run(
            [*command, f"training.batch_size={BATCH[experiment]}", *SMALLER],
            env={**self.environment, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=500,
        )

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.root / "outputs" / "latest" / "summary.json").read_text())
        return summary


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipes]:
    root = tmp_path_factory.mktemp("recipes")
    hub = LoopbackHub()
    hub.redirects = True
    folders = all_repositories(root / "repositories")
    folders["dataset", "sentence-transformers/gooaq"] = gooaq(root / "pairs", rows=120)
    folders["dataset", "sentence-transformers/NanoBEIR-en"] = nano_beir(root / "judged", queries=2)
    commits = {name: hub.publish(kind, name, folder) for (kind, name), folder in folders.items()}
    with hub.serving():
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        environment = {**kept, "HF_HOME": str(root / "home"), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        yield Recipes(root, hub, commits, {**environment, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("experiment", BASE)
def test_a_recipe_runs_from_the_hub_to_the_card_and_again_without_it(recipes: Recipes, experiment: str) -> None:
    done = recipes.train(experiment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    measures = recipes.summary()["measures"]
    assert set(measures) == {"gooaq-dev", *NANO_SETS, "NanoBEIR_R100_mean"}
    for protocols in measures.values():
        for protocol in ("as_retrieved", "positives_added"):
            assert {"first_stage", "untrained", "trained"} <= set(protocols[protocol])
    run = recipes.root / "outputs" / "latest"
    assert (run / "README.md").is_file() and (run / "model" / "model.safetensors").is_file()
    recorded = json.loads((recipes.root / "outputs" / "hub.lock.json").read_text())["commits"]
    assert recorded[f"model {BASE[experiment]} main"] == recipes.commits[BASE[experiment]]
    # The commit is in the trained model's manifest too, wherever in it.
    assert recipes.commits[BASE[experiment]] in (run / "model" / "manifest.json").read_text()

    settled = {fact["name"]: fact["value"] for fact in published(experiment)["facts"] if fact["kind"] == "card"}
    assert settled_by_a_card((run / "README.md").read_text(encoding="utf-8"), experiment) == settled

    weights = (run / "model" / "model.safetensors").stat().st_mtime_ns
    asked = len(recipes.hub.requests)
    again = recipes.train(experiment, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    assert len(recipes.hub.requests) == asked
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == weights


def test_no_file_of_ours_holds_the_token(recipes: Recipes) -> None:
    files = [path for path in (recipes.root / "outputs").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    sent = {header for _, header in recipes.hub.authorizations}
    assert f"Bearer {TOKEN}" in sent
