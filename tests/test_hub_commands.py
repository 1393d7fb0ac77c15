"""`check`, `push` and `reproduce` as their scripts run them, through the real hub client, against the loopback hub.

One process runs them one after the other: what costs is loading the libraries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hub_fixtures import bert_tiny, gooaq, nano_beir, static_retriever
from huggingface_hub import ModelCard
from loopback_hub import TOKEN, LoopbackHub
from script_process import Done, ScriptProcess, script_process

from pipeline.core.atomic import read_json
from pipeline.reporting.run_figures import measured_run

EXPERIMENT = "gooaq_bert_tiny"
REPO = "tester/pushed"
BASE, PAIRS = "prajjwal1/bert-tiny", "sentence-transformers/gooaq"
SMALLER = ["data.rows=110", "training.max_steps=2", "training.eval_steps=2", "training.logging_steps=2",
           "training.batch_size=32", "emissions.enabled=false", "runtime=cpu"]  # fmt: skip

LOAD_PUSHED = f"""
from sentence_transformers import CrossEncoder
model = CrossEncoder("{REPO}", device="cpu")
scores = model.predict([("what", "a river"), ("what", "a stone")], show_progress_bar=False)
print("SHAPE", scores.shape, model.activation_fn)
"""


@dataclass
class Commands:
    """Commands by a name of the test's own: how each ended, and its requests to the hub."""

    root: Path
    hub: LoopbackHub
    done: dict[str, Done] = field(default_factory=dict)
    requests: dict[str, list[str]] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return (self.root / "outputs" / "latest").resolve()

    def script(self, name: str, *arguments: str) -> list[str]:
        return [f"scripts/{name}.py", *arguments, f"outputs_dir={self.root / 'outputs'}"]

    def recipe(self, name: str, *arguments: str) -> list[str]:
        return self.script(name, f"experiment={EXPERIMENT}", *SMALLER, *arguments)

    def execute(self, process: ScriptProcess, commands: dict[str, list[str]], **environments: dict[str, str]) -> None:
        for name, argv in commands.items():
            seen = len(self.hub.requests)
            self.done[name] = process.run(*argv, **{"HF_TOKEN": TOKEN, **environments.get(name, {})})
            self.requests[name] = self.hub.requests[seen:]


def facts_of(run: Path) -> dict[str, Any]:
    """Return this run's figures in the form of the file of published ones."""
    found = measured_run(run)
    facts: list[dict[str, Any]] = [
        {"id": f"rows/{name}", "kind": "rows", "name": name, "value": value} for name, value in found.counts.items()
    ]
    for name, measures in found.first_stage.items():
        facts += [
            {"id": f"first-stage/{name}/{measure}", "kind": "first_stage", "set": name, "measure": measure,
             "value": found.base_map[name] if measure == "map" else value}
            for measure, value in measures.items()
        ]  # fmt: skip
    facts += [
        {"id": f"loss/{step}", "kind": "loss", "step": step, "value": loss} for step, loss in found.losses.items()
    ]
    for name, protocols in found.final.items():
        facts += [
            {"id": f"final/{name}/{protocol}/{measure}", "kind": "final", "set": name, "protocol": protocol,
             "measure": measure, "value": value}
            for protocol, measures in protocols.items()
            for measure, value in measures.items()
        ]  # fmt: skip
    return {EXPERIMENT: {"hub_id": REPO, "facts": facts}}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    root = tmp_path_factory.mktemp("commands")
    hub = LoopbackHub()
    hub.publish("dataset", PAIRS, gooaq(root / "gooaq", rows=120))
    hub.publish("dataset", "sentence-transformers/NanoBEIR-en", nano_beir(root / "nano", queries=3))
    hub.publish("model", BASE, bert_tiny(root / "tiny"))
    hub.publish("model", "sentence-transformers/static-retrieval-mrl-en-v1", static_retriever(root / "static"))
    with hub.serving(), script_process(root, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN) as process:
        commands = Commands(root, hub)
        commands.execute(
            process,
            {
                "check": commands.recipe("check"),
                "gpu": commands.recipe("check", "runtime=rtx3090"),
                "absent": commands.recipe("check", "model.path=nobody/nothing"),
                "token": commands.recipe("check"),
                "train": commands.recipe("train", f"model.path={BASE}@main", f"data.path={PAIRS}@main"),
            },
            token={"HF_TOKEN": "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"},
        )
        assert commands.done["train"].status == 0, commands.done["train"]
        facts, other = root / "facts.json", root / "other.json"
        book = facts_of(commands.run)
        facts.write_text(json.dumps(book))
        book[EXPERIMENT]["facts"][0]["value"] += 1
        other.write_text(json.dumps(book))
        reproduce, fresh = "reproduce", f"outputs_dir={root / 'fresh'}"
        commands.execute(
            process,
            {
                "push": commands.script("push", f"repo={REPO}"),
                "forbidden": commands.script("push", "repo=tester/forbidden"),
                "load": ["-c", LOAD_PUSHED],
                "run": commands.recipe(reproduce, f"run={commands.run}", f"facts={facts}"),
                "first": [*commands.recipe(reproduce, "stage=first", f"facts={facts}")[:-1], fresh],
                "other": [*commands.recipe(reproduce, "stage=first", f"facts={other}")[:-1], fresh],
                "weights": commands.recipe(reproduce, f"weights={REPO}", f"facts={facts}"),
                "base": commands.recipe(reproduce, f"weights={BASE}", f"facts={facts}"),
                "none": commands.recipe(reproduce),
            },
            forbidden={"HF_TOKEN": "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"},
        )
        yield commands


def findings(result: Done) -> dict[str, tuple[str, str]]:
    """Return the lines of a check: what → (status, words)."""
    lines = [re.match(r"^(OK|WARN|FAIL) +(\w+(?: size| disk)?) +(.*)$", line) for line in result.out.splitlines()]
    return {match[2]: (match[1], match[3]) for match in lines if match}


def test_check_covers_everything_and_downloads_no_weights_or_data(commands: Commands) -> None:
    result = commands.done["check"]
    assert result.status == 0, result
    found = findings(result)
    assert list(found) == ["login", "model", "data", "retriever", "NanoBEIR", "device", "precision", "cache disk",
                           "outputs disk", "memory", "time"]  # fmt: skip
    assert found["login"] == ("OK", "as tester")
    assert found["model"][1].startswith(f"{BASE}: main is commit ") and "kB to download" in found["model"][1]
    assert {status for status, _ in found.values()} <= {"OK", "WARN"}
    assert "to download" in found["cache disk"][1]
    assert result.cpu_s < 60, "promised: under two minutes, its libraries' loading included"
    assert "about " in found["time"][1] and "for 64 pairs" in found["time"][1]
    fetched = [line for line in commands.requests["check"] if line.startswith("GET") and "/resolve/" in line]
    assert {line.rpartition("/")[2] for line in fetched} <= {"config.json"}


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [("gpu", "device", "runtime=cpu"), ("absent", "model", "spelling"), ("token", "login", "hf auth login")],
    ids=["missing GPU", "missing model", "wrong token"],
)
def test_failed_check_names_the_remedy(commands: Commands, name: str, what: str, remedy: str) -> None:
    result = commands.done[name]
    assert result.status == 2, result
    status, message = findings(result)[what]
    assert status == "FAIL" and remedy in message
    assert f"every check must pass before a run, got {what}" in result.err
    assert "Traceback" not in result.out + result.err


def test_pushed_run_is_a_cross_encoder_with_its_card(commands: Commands) -> None:
    assert commands.done["push"].status == 0, commands.done["push"]
    repository = commands.hub.repositories["model", REPO]
    files = repository.commits[repository.branches["main"]]
    assert repository.branches["main"] in commands.done["push"].out
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert not {"manifest.json", "training.json", "metrics.jsonl", "emissions.json"} & set(files)
    assert files["model.safetensors"] == (commands.run / "model" / "model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert f"CrossEncoder('{REPO}')" in card and "CrossEncoder('outputs/" not in card
    assert not any(str(commands.root).encode() in content or TOKEN.encode() in content for content in files.values())
    assert commands.done["load"].status == 0 and "SHAPE (2,) Sigmoid()" in commands.done["load"].out


def test_card_names_base_and_data_without_revisions(commands: Commands) -> None:
    data = ModelCard((commands.run / "card" / "README.md").read_text()).data.to_dict()
    assert data["base_model"] in (BASE, [BASE]) and data["datasets"] == [PAIRS]


def test_push_without_permission_is_refused(commands: Commands) -> None:
    result = commands.done["forbidden"]
    assert result.status == 2
    assert re.search(
        r"^error: repo=tester/forbidden must be a repository that you may write to, got .*401.*hf auth login",
        result.err,
        re.M,
    )


def test_comparison_with_published_figures_is_kept_with_the_run(commands: Commands) -> None:
    result = commands.done["run"]
    assert result.status == 0, result
    found = read_json(commands.run / "reproduction.json")
    assert found["verdicts"]["FAIL"] == found["verdicts"]["OKish"] == 0 and found["verdicts"]["OK"] > 40
    assert "loss/2" in result.out and f"beside {REPO}" in result.out
    readme, card = ((commands.run / name).read_text() for name in ("README.md", "card/README.md"))
    assert readme.count("## Reproduction") == 1 and "## Reproduction" not in card


def test_first_stage_is_reproduced_without_training(commands: Commands) -> None:
    assert commands.done["first"].status == 0, commands.done["first"]
    found = read_json(commands.root / "fresh" / "reports" / f"reproduce-{EXPERIMENT}-first.json")
    assert [row["id"].split("/")[0] for row in found["rows"]] == ["rows"] * 3 + ["first-stage"] * 15
    assert not (commands.root / "fresh" / "runs").exists()
    nf = next(row for row in found["rows"] if row["id"] == "first-stage/NanoNFCorpus/map")
    assert "reference evaluator" in nf["note"], "the fixture's second set misses a positive"


def test_figure_outside_its_band_fails_with_status_2(commands: Commands) -> None:
    result = commands.done["other"]
    assert result.status == 2
    assert re.search(r"^FAIL +rows/rows", result.out, re.M)
    assert "every figure must lie within its band, got 1 of 18 outside" in result.err


def test_pushed_weights_score_as_their_run_did(commands: Commands) -> None:
    assert commands.done["weights"].status == 0, commands.done["weights"]
    found = read_json(commands.root / "outputs" / "reports" / f"reproduce-{EXPERIMENT}-tester-pushed.json")
    finals = [row for row in found["rows"] if row["id"].startswith("final/")]
    assert len(finals) == 30
    assert all(row["ours"] == pytest.approx(row["published"], abs=1e-12) for row in finals)


def test_reproduce_without_a_cross_encoder_or_argument_is_refused(commands: Commands) -> None:
    assert commands.done["base"].status == 2 and "weights must be a trained cross-encoder" in commands.done["base"].err
    assert commands.done["none"].status == 2
    assert "one of run, stage and weights must be given, got none" in commands.done["none"].err
