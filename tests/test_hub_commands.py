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
class Desk:
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

    def do(self, process: ScriptProcess, commands: dict[str, list[str]], **environments: dict[str, str]) -> None:
        for name, argv in commands.items():
            seen = len(self.hub.requests)
            self.done[name] = process.run(*argv, **{"HF_TOKEN": TOKEN, **environments.get(name, {})})
            self.requests[name] = self.hub.requests[seen:]


def facts_of(run: Path) -> dict[str, Any]:
    """A file of published figures that this run has: what its loopback twin should reproduce."""
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
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    root = tmp_path_factory.mktemp("commands")
    hub = LoopbackHub()
    hub.publish("dataset", PAIRS, gooaq(root / "gooaq", rows=120))
    hub.publish("dataset", "sentence-transformers/NanoBEIR-en", nano_beir(root / "nano", queries=3))
    hub.publish("model", BASE, bert_tiny(root / "tiny"))
    hub.publish("model", "sentence-transformers/static-retrieval-mrl-en-v1", static_retriever(root / "static"))
    with hub.serving(), script_process(root, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN) as process:
        desk = Desk(root, hub)
        desk.do(
            process,
            {
                "check": desk.recipe("check"),
                "gpu": desk.recipe("check", "runtime=rtx3090"),
                "absent": desk.recipe("check", "model.path=nobody/nothing"),
                "token": desk.recipe("check"),
                "train": desk.recipe("train", f"model.path={BASE}@main", f"data.path={PAIRS}@main"),
            },
            token={"HF_TOKEN": "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"},
        )
        assert desk.done["train"].status == 0, desk.done["train"]
        facts, other = root / "facts.json", root / "other.json"
        book = facts_of(desk.run)
        facts.write_text(json.dumps(book))
        book[EXPERIMENT]["facts"][0]["value"] += 1
        other.write_text(json.dumps(book))
        reproduce, fresh = "reproduce", f"outputs_dir={root / 'fresh'}"
        desk.do(
            process,
            {
                "push": desk.script("push", f"repo={REPO}"),
                "forbidden": desk.script("push", "repo=tester/forbidden"),
                "load": ["-c", LOAD_PUSHED],
                "run": desk.recipe(reproduce, f"run={desk.run}", f"facts={facts}"),
                "first": [*desk.recipe(reproduce, "stage=first", f"facts={facts}")[:-1], fresh],
                "other": [*desk.recipe(reproduce, "stage=first", f"facts={other}")[:-1], fresh],
                "weights": desk.recipe(reproduce, f"weights={REPO}", f"facts={facts}"),
                "base": desk.recipe(reproduce, f"weights={BASE}", f"facts={facts}"),
                "none": desk.recipe(reproduce),
            },
            forbidden={"HF_TOKEN": "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"},
        )
        yield desk


def findings(result: Done) -> dict[str, tuple[str, str]]:
    """What → (status, words) of the lines of a check."""
    lines = [re.match(r"^(OK|WARN|FAIL) +(\w+(?: size| disk)?) +(.*)$", line) for line in result.out.splitlines()]
    return {match[2]: (match[1], match[3]) for match in lines if match}


def test_a_check_looks_at_everything_and_downloads_no_weights_or_data(desk: Desk) -> None:
    result = desk.done["check"]
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
    fetched = [line for line in desk.requests["check"] if line.startswith("GET") and "/resolve/" in line]
    assert {line.rpartition("/")[2] for line in fetched} <= {"config.json"}


def test_a_missing_gpu_a_missing_model_and_a_wrong_token_fail_with_remedies(desk: Desk) -> None:
    for name, what, words in (
        ("gpu", "device", "runtime=cpu"),
        ("absent", "model", "spelling"),
        ("token", "login", "hf auth login"),
    ):
        result = desk.done[name]
        assert result.status == 2, (name, result)
        status, said = findings(result)[what]
        assert status == "FAIL" and words in said
        assert f"every check must pass before a run, got {what}" in result.err
        assert "Traceback" not in result.out + result.err


def test_a_pushed_run_is_a_cross_encoder_with_its_card(desk: Desk) -> None:
    assert desk.done["push"].status == 0, desk.done["push"]
    repository = desk.hub.repositories["model", REPO]
    files = repository.commits[repository.branches["main"]]
    assert repository.branches["main"] in desk.done["push"].out
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert not {"manifest.json", "training.json", "metrics.jsonl", "emissions.json"} & set(files)
    assert files["model.safetensors"] == (desk.run / "model" / "model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert f"CrossEncoder('{REPO}')" in card and "CrossEncoder('outputs/" not in card
    assert not any(str(desk.root).encode() in content or TOKEN.encode() in content for content in files.values())
    assert desk.done["load"].status == 0 and "SHAPE (2,) Sigmoid()" in desk.done["load"].out


def test_a_card_names_base_and_data_without_their_revisions(desk: Desk) -> None:
    data = ModelCard((desk.run / "card" / "README.md").read_text()).data.to_dict()
    assert data["base_model"] in (BASE, [BASE]) and data["datasets"] == [PAIRS]


def test_a_push_without_permission_is_one_sentence(desk: Desk) -> None:
    result = desk.done["forbidden"]
    assert result.status == 2
    assert re.search(
        r"^error: repo=tester/forbidden must be a repository that you may write to, got .*401.*hf auth login",
        result.err,
        re.M,
    )


def test_a_run_beside_its_figures_is_kept_in_its_folder_and_card(desk: Desk) -> None:
    result = desk.done["run"]
    assert result.status == 0, result
    found = read_json(desk.run / "reproduction.json")
    assert found["verdicts"]["FAIL"] == found["verdicts"]["OKish"] == 0 and found["verdicts"]["OK"] > 40
    assert "loss/2" in result.out and f"beside {REPO}" in result.out
    readme = (desk.run / "README.md").read_text()
    assert (
        readme.count("## Reproduction") == 1 and "## Reproduction" not in (desk.run / "card" / "README.md").read_text()
    )


def test_the_first_stage_is_mined_and_checked_without_training(desk: Desk) -> None:
    assert desk.done["first"].status == 0, desk.done["first"]
    found = read_json(desk.root / "fresh" / "reports" / f"reproduce-{EXPERIMENT}-first.json")
    assert [row["id"].split("/")[0] for row in found["rows"]] == ["rows"] * 3 + ["first-stage"] * 15
    assert not (desk.root / "fresh" / "runs").exists()
    nf = next(row for row in found["rows"] if row["id"] == "first-stage/NanoNFCorpus/map")
    assert "reference evaluator" in nf["note"], "the fixture's second set misses a positive"


def test_another_row_count_fails_with_status_2(desk: Desk) -> None:
    result = desk.done["other"]
    assert result.status == 2
    assert re.search(r"^FAIL +rows/rows", result.out, re.M)
    assert "every figure must lie within its band, got 1 of 18 outside" in result.err


def test_published_weights_score_as_their_run_did(desk: Desk) -> None:
    assert desk.done["weights"].status == 0, desk.done["weights"]
    found = read_json(desk.root / "outputs" / "reports" / f"reproduce-{EXPERIMENT}-tester-pushed.json")
    finals = [row for row in found["rows"] if row["id"].startswith("final/")]
    assert len(finals) == 30
    assert all(row["ours"] == pytest.approx(row["published"], abs=1e-12) for row in finals)


def test_what_cannot_be_compared_is_refused(desk: Desk) -> None:
    assert desk.done["base"].status == 2 and "weights must be a trained cross-encoder" in desk.done["base"].err
    assert desk.done["none"].status == 2
    assert "one of run, stage and weights must be given, got none" in desk.done["none"].err
