"""What a researcher's trial through the loopback hub found; each group belongs into the test file of its module."""

from __future__ import annotations

import errno
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import run_facts
from composed_config import composed
from hub_fixtures import bert_tiny, gooaq, static_retriever
from loopback_hub import TOKEN, LoopbackHub
from published_run import build
from script_process import ROOT, Done, script_process
from small_models import model_config, tiny

from pipeline.core import artifacts
from pipeline.core.atomic import read_json, write_json
from pipeline.core.console import counted, in_bytes
from pipeline.core.fingerprint import plain
from pipeline.core.markdown import escape
from pipeline.engine import model_files
from pipeline.hub import failures
from pipeline.reporting.comparison import as_text
from pipeline.reporting.model_card import render
from pipeline.reporting.verdicts import selection, selection_sentence, verdict

# --- push ---

XET = {"HF_HUB_DISABLE_XET": "0", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_TOKEN": TOKEN}
"""The client's own settings, with one attempt at each request to Xet instead of minutes of them."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build(tmp_path_factory.mktemp("push"), "gooaq_bert_tiny")
    (run / "model" / "model.safetensors").write_bytes(b"weights" * 1000)
    return run


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub().serving() as hub:
        yield hub


def test_a_push_over_xet_that_fails_is_one_sentence_without_an_address(
    finished: Path, hub: LoopbackHub, tmp_path: Path
) -> None:
    said = {}
    with script_process(tmp_path, HF_ENDPOINT=hub.url, **XET) as process:
        for play in ("403", "404", "503"):
            hub.faults.clear()
            hub.play("*xet-write-token*", play)
            done = process.run("scripts/push.py", f"run={finished}", "repo=tester/pushed")
            assert done.status == 2, done
            assert "127.0.0.1" not in done.out + done.err and "Traceback" not in done.err
            assert re.match(r"uploading gooaq\S+ to tester/pushed: 2 files, 7\.\d kB\n", done.err)
            said[play] = done.err.splitlines()[-1]
    assert any("xet-write-token" in line for line in hub.requests), "Xet is on"
    assert said["403"].startswith(
        "error: repo=tester/pushed must be a repository that you may write to, got no permission (HTTP 403). Log in"
    )
    for play in ("404", "503"):
        assert f"repo=tester/pushed must accept the upload, got HTTP {play}. Push again" in said[play]


def test_a_push_that_hangs_ends_at_once_when_asked_to(finished: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.clear()
    hub.play("*xet-write-token*", "hang")
    command = [sys.executable, "scripts/push.py", f"run={finished}", "repo=tester/hanging"]
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, **XET}
    asked = len(hub.requests)
    with subprocess.Popen(
        command, env={**environment, "PYTHONPATH": str(ROOT)}, cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        while not any("xet-write-token" in line for line in hub.requests[asked:]):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 75 and "interrupted: " in err


# --- rerunning ---

BASE, PAIRS = "prajjwal1/bert-tiny", "sentence-transformers/gooaq"
RETRIEVER = "sentence-transformers/static-retrieval-mrl-en-v1"
SMALLER = ["experiment=gooaq_bert_tiny", "data.rows=110", "training.max_steps=2", "training.eval_steps=2",
           "training.logging_steps=2", "training.batch_size=32", "training.eval_sets=[dev]", "evaluation.nano_beir=[]",
           "evaluation.rivals=[tester/rival]", "emissions.enabled=false", "runtime=cpu"]  # fmt: skip


def commits_of(outputs: Path) -> dict[str, str]:
    found: dict[str, str] = read_json(outputs / "hub.lock.json")["commits"]
    return found


def test_a_rerun_takes_the_commits_of_the_run_when_branches_have_moved(tmp_path: Path) -> None:
    hub, outputs = LoopbackHub(), tmp_path / "outputs"
    folders = {
        ("dataset", PAIRS): gooaq(tmp_path / "gooaq", rows=120),
        ("model", BASE): bert_tiny(tmp_path / "tiny"),
        ("model", RETRIEVER): static_retriever(tmp_path / "static"),
        ("model", "tester/rival"): tmp_path / "rival",
    }
    (tmp_path / "rival").mkdir()
    model_files.save(tiny(tmp_path / "tiny"), tmp_path / "rival", model_config(tmp_path / "tiny"))
    before = {of: hub.publish(*of, folder) for of, folder in folders.items()}
    with hub.serving(), script_process(tmp_path, HF_ENDPOINT=hub.url) as process:
        first = process.run("scripts/train.py", *SMALLER, f"outputs_dir={outputs}")
        assert first.status == 0, first
        run = (outputs / "latest").resolve()
        after = {of: hub.commit(*of, {**hub.repositories[of].commits[before[of]], "NEW.md": b"new"}) for of in folders}
        moved = process.run("scripts/check.py", *SMALLER, f"outputs_dir={outputs}", "hub.refresh=true")
        assert moved.status == 0, moved
        assert {after["dataset", PAIRS], after["model", BASE], after["model", RETRIEVER]} <= set(
            commits_of(outputs).values()
        )

        def again(name: str, manifest: Path) -> Done:
            return process.run("scripts/rerun.py", f"manifest={manifest}", f"outputs_dir={tmp_path / name}")

        # Copied without its lock file, and repeated beside the refreshed one.
        shutil.copytree(outputs / "runs", tmp_path / "copied" / "runs")
        shutil.copytree(outputs / "mined", tmp_path / "copied" / "mined")
        copied = tmp_path / "copied" / "runs" / run.name
        evaluation = next((run / "evaluations").glob("[!.]*")).name
        for name, manifest in (("new", run / "model"), ("third", copied / "evaluations" / evaluation)):
            if name == "third":
                (outputs / "hub.lock.json").unlink()
            done = again(name, manifest)
            assert done.status == 0 and "not the same run" not in done.out, done
            repeated = (tmp_path / name / "latest").resolve()
            assert repeated.name == run.name
            weights = [(of / "model" / "model.safetensors").read_bytes() for of in (run, repeated)]
            assert weights[0] == weights[1]
            assert [path.name for path in (repeated / "evaluations").glob("[!.]*")] == [evaluation]

        # Without the mined set nothing tells which data it was.
        shutil.rmtree(tmp_path / "copied" / "mined")
        lone = again("fourth", copied / "model")
        assert lone.status == 2 and "the commits of data.path=" in lone.err and "Copy the run's mined/" in lone.err, (
            lone
        )

        del hub.repositories["model", BASE].commits[before["model", BASE]]
        shutil.rmtree(tmp_path / "home" / "hub" / f"models--{BASE.replace('/', '--')}")
        gone = again("fifth", run / "model")
        assert gone.status == 2 and before["model", BASE] in gone.err and "cannot be repeated" in gone.err, gone
        assert not (tmp_path / "fifth" / "runs").exists()


# --- reproduction ---


def test_a_run_of_another_recipe_is_told_by_its_keys_and_where_its_card_changed(tmp_path: Path) -> None:
    def other(fact: dict[str, Any]) -> float:
        value = float(fact["value"])
        return value * 2 if fact["kind"] == "loss" else 0.00003 if fact["kind"] == "energy" else value

    run = build(tmp_path, "gooaq_bert_tiny", other)
    words = ["experiment=gooaq_bert_tiny", "seed=5", "data.rows=3000", "training.max_steps=30", "mining.dev_depth=50",
             "training.batch_size=64", "training.eval_steps=20", "training.precision=fp32"]  # fmt: skip
    for asked, cause in (
        (words, "differs from the recipe in seed, data.rows, mining.dev_depth, training.batch_size, training.max_steps "
                "and 1 more key."),
        (words[:1], "is the recipe's, so the usual cause is a revision that moved."),
    ):  # fmt: skip
        manifest = artifacts.manifest_of(run / "model") or {}
        manifest["provenance"]["config"] = plain(composed(*asked))
        write_json(run / "model" / artifacts.MANIFEST, artifacts.sealed(manifest))
        command = [sys.executable, "scripts/reproduce.py", "experiment=quickstart", f"run={run}"]
        done = subprocess.run(
            [*command, f"outputs_dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and f"marked FAIL above; the configuration {cause}" in done.stderr, done
    assert f"and in the section Reproduction of {run / 'README.md'}" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith(("OK", "FAIL"))]
    assert any(re.search(r"energy/training +\d\.\d{4} +0\.000030 ", row) for row in rows)
    assert len({row[54:].split()[0] for row in rows if "±" in row}) > 9, "the columns are where the head says"
    untrained = [row for row in rows if " log/0/" in row]
    assert untrained and all(row.startswith("OKish") and "untrained, so no check" in row for row in untrained)
    card = (run / "README.md").read_text()
    ids = [row.split()[1] for row in rows]
    assert all(card.count(f"| {escape(name)} |") == 1 for name in ids), "each row once"


def test_a_long_name_widens_its_column() -> None:
    row = {"id": "x" * 60, "published": 1.0, "ours": 0.5, "band": "", "verdict": "OK", "note": "why"}
    text = as_text({"experiment": "e", "published": "p", "verdicts": {"OK": 1}, "rows": [row, {**row, "id": "y"}]})
    head, *rows, _ = text.splitlines()
    assert {line.index("why") for line in rows} == {head.index("note")}


# --- cache ---

LOCATE = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
from pipeline.hub.location import locate
found = locate("owner/twins", None, kind="dataset", lock=Path(sys.argv[1]), key="data.path")
print(sorted(path.name for path in found.folder.iterdir()))
"""


def test_files_of_equal_content_are_fetched_once_and_wait_for_nobody(tmp_path: Path, hub: LoopbackHub) -> None:
    hub.commit("dataset", "owner/twins", {"a.parquet": b"x" * 5000, "b.parquet": b"x" * 5000, "c.txt": b"c"})
    hub.play("GET *.parquet", "503", 1)  # whoever holds the blob's lock waits a second
    code = f"import sys; sys.argv = ['', {str(tmp_path / 'hub.lock.json')!r}]\n{LOCATE}"
    with script_process(tmp_path, HF_ENDPOINT=hub.url) as process:
        done = process.run("-c", code)
    assert done.status == 0 and "['a.parquet', 'b.parquet', 'c.txt']" in done.out, done
    assert "fetching 2 files, 5.0 kB" in done.out and "trying again" in done.out
    assert "waiting for another process" not in done.out


# --- failures ---


def test_an_error_of_xet_is_told_by_its_status_and_never_by_its_address() -> None:
    where = "domain: http://127.0.0.1:80/api/models/a/b/xet-read-token/main"
    refused = ConnectionError(f"Network error: Request error: HTTP status client error (403 Forbidden), {where}")
    busy = ConnectionError(f"Server error: Request error: HTTP status server error (503 Service Unavailable), {where}")
    lost = ConnectionError("Network error: Request middleware error: error sending request for url (http://cas/v1)")
    assert [failures.status_of(error) for error in (refused, busy, lost)] == [403, 503, None]
    assert [failures.is_transient(error) for error in (refused, busy, lost)] == [False, True, True]
    for error in (refused, busy, lost, RuntimeError("Internal error: http://cas/v1 is no address")):
        said = str(failures.refusal(error, key="model.path", repository="a/b", kind="model", revision=None))
        assert "http://" not in said and "fit on this disk" not in said
    assert "ask for access" in str(
        failures.refusal(refused, key="model.path", repository="a/b", kind="model", revision=None)
    ).lower()  # fmt: skip


def test_a_limit_on_a_files_size_is_not_a_full_disk() -> None:
    error = OSError(errno.EFBIG, "File too large")
    said = str(failures.refusal(error, key="model.path", repository="a/b", kind="model", revision=None))
    assert "must be within the limit on a file's size (ulimit -f)" in said and "Raise the limit" in said
    assert "Free some space" not in said


# --- console ---


def test_bytes_are_in_the_unit_that_suits_them() -> None:
    assert [in_bytes(size) for size in (0, 512, 24_600, 4.2e6, 1.25e12)] == [
        "0 bytes", "512 bytes", "24.6 kB", "4.2 MB", "1,250.0 GB",
    ]  # fmt: skip


def test_a_number_goes_with_its_noun() -> None:
    assert [counted(1, "thread"), counted(2, "thread"), counted(1234, "query", "queries")] == [
        "1 thread", "2 threads", "1,234 queries",
    ]  # fmt: skip


# --- verdicts ---


def test_the_last_step_is_not_compared_with_itself(tmp_path: Path) -> None:
    last = run_facts.TRAINING["steps"]
    for name, said in (
        ("gooaq-dev", f"gooaq-dev: selected on this set (the checkpoint of step {last}, the last one, had the best "
                      "nDCG@10 of the fixed-step evaluations, 0.5000), which favours its figure."),
        ("validation", f"The checkpoint of step {last}, the last one, was kept: it had the best nDCG@10 of the "
                       "fixed-step evaluations on validation (not evaluated), which is not a reported set."),
    ):  # fmt: skip
        training = {**run_facts.TRAINING, "best_step": last, "saved_step": last, "selection_set": name}
        chosen = selection(run_facts.write(tmp_path / name, training=training))
        assert chosen is not None and selection_sentence(chosen) == said


def test_one_query_that_was_trained_on_is_in_the_singular(tmp_path: Path) -> None:
    facts = run_facts.write(tmp_path)
    name, measures = next(iter(facts.measures.items()))
    for seen, words in ((1, "1 of its 50 queries is a training question too"), (2, "2 of its 50 queries are training")):
        said = " ".join(verdict(name, {**measures, "queries": 50, "queries_trained_on": seen}))
        assert words in said


# --- model_card ---


def test_each_stage_names_its_grid(tmp_path: Path) -> None:
    stages = {"mine": run_facts.energy(0.01, None), "train": run_facts.energy(0.02, "FRA")}
    card = render(run_facts.write(tmp_path, emissions=stages))
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[3] for line in card.splitlines()
            if line.startswith(("| mine |", "| train |", "| all stages |"))}  # fmt: skip
    assert rows == {"mine": "world average", "train": "FRA", "all stages": "world average, FRA"}
    assert "- **Grid:** FRA, " in card


def test_the_size_says_how_many_samples_were_trained_on(tmp_path: Path) -> None:
    facts = run_facts.write(tmp_path)
    facts.rows = {**facts.rows, "size": 2687}
    for steps, said in ((42, ""), (1, ", of which 64 were trained on")):
        facts.training = {**facts.training, "rows": 2687, "steps": steps, "batch_size": 64, "epochs": 1}
        card = render(facts)
        assert f"- Size: 2,687 training samples{said}\n- Columns" in card and "dataset_size:2687\n" in card
    assert "\n1 step, 64 pairs, " in card


def test_one_thread_is_in_the_singular(tmp_path: Path) -> None:
    facts = run_facts.write(tmp_path)
    facts.provenance = {**facts.provenance, "threads": {"intra_op": 1, "inter_op": 1}}
    assert re.search(r"CPU Model:.*, 1 thread$", render(facts), re.M)


# --- emissions, run ---


def test_a_country_without_a_grid_is_said_once_and_before_any_work(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/mine.py", "experiment=smoke", "data.limit=150", "data.dev_queries=20",
               "runtime=cpu", "runtime.workers=1", f"outputs_dir={tmp_path}"]  # fmt: skip
    said = {}
    for code in ("MCO", "KOS"):
        done = subprocess.run(
            [*command, f"emissions.country_iso_code={code}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        said[code] = done.returncode, done.stdout + done.stderr
    status, text = said["MCO"]
    assert status == 0 and text.count("codecarbon has no grid for emissions.country_iso_code=MCO") == 1, text
    assert text.index("codecarbon has no grid") < text.index("experiment  smoke")
    status, text = said["KOS"]
    assert status == 2 and "emissions.country_iso_code must be a country's code, got 'KOS'. Use an ISO 3166" in text
    assert "experiment  smoke" not in text
