"""Both published recipes from the first byte to the card, through the real hub client, against the loopback hub.

Scaled down only by row counts, steps and model width; the configuration is each experiment's own. One process runs
both, and another runs both again with the hub gone.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_fixtures import NANO_SETS, all_repositories, gooaq, nano_beir
from loopback_hub import TOKEN, LoopbackHub
from published_run import settled_by_a_card
from script_process import Done, ScriptProcess, script_process

from pipeline.core.atomic import read_json
from pipeline.reporting.comparison import published

SMALLER = ["data.rows=110", "data.dev_queries=8", "training.max_steps=4", "training.eval_steps=2",
           "emissions.enabled=false", "runtime=cpu"]  # fmt: skip
BATCH = {"gooaq_bert_tiny": 32, "gooaq_modernbert_large": 8}
BASE = {"gooaq_bert_tiny": "prajjwal1/bert-tiny", "gooaq_modernbert_large": "answerdotai/ModernBERT-large"}
PAIRS, NANO = "sentence-transformers/gooaq", "sentence-transformers/NanoBEIR-en"
RETRIEVER = "sentence-transformers/static-retrieval-mrl-en-v1"


@dataclass
class Ran:
    """One recipe: the run with the hub, and the one without it."""

    first: Done
    again: Done
    run: Path
    weights_written: tuple[int, int]
    """When the weights' file was written, in ns, as seen after either run."""


@dataclass
class Recipes:
    root: Path
    hub: LoopbackHub
    commits: dict[str, str]
    ran: dict[str, Ran]

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"


def train(process: ScriptProcess, outputs: Path, experiment: str) -> Done:
    return process.run(
        "scripts/train.py", f"experiment={experiment}", f"outputs_dir={outputs}",
        f"training.batch_size={BATCH[experiment]}", *SMALLER,
    )  # fmt: skip


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Recipes:
    root = tmp_path_factory.mktemp("recipes")
    outputs = root / "outputs"
    hub = LoopbackHub()
    hub.redirects = True
    folders = all_repositories(root / "repositories")
    folders["dataset", PAIRS] = gooaq(root / "pairs", rows=120)
    folders["dataset", NANO] = nano_beir(root / "judged", queries=2)
    commits = {name: hub.publish(kind, name, folder) for (kind, name), folder in folders.items()}

    def run_both(environment: dict[str, str]) -> dict[str, tuple[Done, Path, int]]:
        found = {}
        with script_process(root, HF_TOKEN=TOKEN, **environment) as process:
            for experiment in BASE:
                done = train(process, outputs, experiment)
                run = (outputs / "latest").resolve()
                found[experiment] = done, run, (run / "model" / "model.safetensors").stat().st_mtime_ns
        return found

    with hub.serving():
        address = hub.url
        first = run_both({"HF_ENDPOINT": address})
    again = run_both({"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "1"})
    ran = {name: Ran(first[name][0], again[name][0], first[name][1], (first[name][2], again[name][2])) for name in BASE}
    return Recipes(root, hub, commits, ran)


@pytest.mark.parametrize("experiment", BASE)
def test_a_recipe_runs_from_the_hub_to_the_card(recipes: Recipes, experiment: str) -> None:
    ran = recipes.ran[experiment]
    assert ran.first.status == 0, ran.first.out[-2000:] + ran.first.err[-2000:]
    summary: dict[str, Any] = json.loads((ran.run / "summary.json").read_text())
    assert set(summary["measures"]) == {"gooaq-dev", *NANO_SETS, "NanoBEIR_R100_mean"}
    for protocols in summary["measures"].values():
        for protocol in ("as_retrieved", "positives_added"):
            assert {"first_stage", "untrained", "trained"} <= set(protocols[protocol])
    assert (ran.run / "README.md").is_file() and (ran.run / "model" / "model.safetensors").is_file()
    settled = {
        fact["name"]: fact["value"] for fact in published(experiment)["facts"] if fact["status"] == "loopback test"
    }
    assert settled_by_a_card((ran.run / "README.md").read_text(encoding="utf-8"), experiment) == settled


@pytest.mark.parametrize("experiment", BASE)
def test_every_commit_is_recorded_and_part_of_its_stages_key(recipes: Recipes, experiment: str) -> None:
    run, commits = recipes.ran[experiment].run, recipes.commits
    recorded = read_json(recipes.outputs / "hub.lock.json")["commits"]
    wanted = {
        f"model {BASE[experiment]} main",
        f"model {RETRIEVER} main",
        f"dataset {PAIRS} main",
        f"dataset {NANO} main",
    }
    assert {name: commits[name.split()[1]] for name in wanted} == {name: recorded[name] for name in wanted}
    model = read_json(run / "model" / "manifest.json")["key"]
    assert model["weights"] == {"hub": BASE[experiment], "commit": commits[BASE[experiment]]}
    (mined,) = (recipes.outputs / "mined").glob(f"*-{model['mine']}")
    mining = read_json(mined / "manifest.json")["key"]
    assert mining["retriever"]["commit"] == commits[RETRIEVER] and mining["content"]["commit"] == commits[PAIRS]
    (nano,) = run.glob("evaluations/NanoNQ-*/manifest.json")
    assert read_json(nano)["key"]["source"]["commit"] == commits[NANO]


@pytest.mark.parametrize("experiment", BASE)
def test_a_second_run_needs_no_hub_and_does_nothing(recipes: Recipes, experiment: str) -> None:
    ran = recipes.ran[experiment]
    assert ran.again.status == 0, ran.again.out[-2000:] + ran.again.err[-2000:]
    assert ran.weights_written[0] == ran.weights_written[1]


def test_a_lost_judged_set_is_scored_again_alone(recipes: Recipes) -> None:
    evaluations = recipes.ran["gooaq_bert_tiny"].run / "evaluations"

    def files() -> dict[str, tuple[bytes, int]]:
        found = (path for path in evaluations.glob("*/*") if path.suffix in (".json", ".tsv", ".trec"))
        return {path.relative_to(evaluations).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
                for path in found if path.name not in ("emissions.json", "manifest.json")}  # fmt: skip

    before = files()
    lost = ("NanoBEIR_R100_mean-", "NanoNQ-")
    for path in evaluations.glob("*"):
        if path.name.startswith(lost):
            shutil.rmtree(path)
    with script_process(recipes.root, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1") as process:
        done = train(process, recipes.outputs, "gooaq_bert_tiny")
    assert done.status == 0, done.err[-2000:]
    after = files()
    assert {name: content for name, (content, _) in after.items()} == {name: old for name, (old, _) in before.items()}
    written = {name for name, (_, at) in after.items() if at != before[name][1]}
    assert written == {name for name in after if name.startswith(lost)}


def test_no_file_of_ours_holds_the_token(recipes: Recipes) -> None:
    files = [path for path in recipes.outputs.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    sent = {header for _, header in recipes.hub.authorizations}
    assert f"Bearer {TOKEN}" in sent
