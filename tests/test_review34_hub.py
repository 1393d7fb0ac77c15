"""What a review of the trial's fixes found; each group belongs into the test file of its module."""

from __future__ import annotations

import errno
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from composed_config import composed
from hub_fixtures import bert_tiny, gooaq, static_retriever
from loopback_hub import LoopbackHub
from published_run import build
from script_process import ROOT, Done, script_process

from pipeline.commands import push as pushing
from pipeline.commands import reproduction, rerunning
from pipeline.commands.push import push
from pipeline.config.command_arguments import Publication
from pipeline.core import artifacts
from pipeline.core.atomic import read_json, write_json
from pipeline.core.console import in_bytes
from pipeline.core.errors import HubError
from pipeline.core.fingerprint import fingerprint, plain
from pipeline.hub import failures
from pipeline.hub.location import is_settled
from pipeline.hub.lock_file import LockFile
from pipeline.reporting.comparison import as_text
from pipeline.stages.plan import VERSIONS

# --- push ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("review"), "gooaq_bert_tiny")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("I/O error: no route to https://cas/v1?token=x"), "got I/O error: no route to <address>. Push again"),
        (PermissionError("denied by the transfer library"), "got denied by the transfer library. Push again"),
        (
            RuntimeError("Data processing error: HTTP status client error (403 Forbidden) for url (https://cas/v1)"),
            "got no permission (HTTP 403). Log in",
        ),
    ],
    ids=["input or output", "no number", "status"],
)
def test_an_error_of_xet_without_a_number_is_a_refusal(
    finished: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pushing.HfApi, "create_repo", lambda *_, **__: None)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pushing.HfApi, "upload_folder", fail)
    with pytest.raises(HubError) as refused:
        push(Publication(repo="me/reranker", run=str(finished)))
    assert said in str(refused.value)


def test_an_error_of_the_system_during_a_push_stays_one(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pushing.HfApi, "create_repo", full)
    with pytest.raises(OSError, match="No space left"):
        push(Publication(repo="me/reranker", run=str(finished)))


# --- failures ---


def test_a_status_in_the_words_of_a_runtime_error_counts() -> None:
    refused = RuntimeError("Data processing error: HTTP status client error (401 Unauthorized) for url (https://cas)")
    busy = RuntimeError("Data processing error: HTTP status server error (503 Service Unavailable) for url (https://c)")
    assert [failures.status_of(error) for error in (refused, busy)] == [401, 503]
    assert [failures.is_transient(error) for error in (refused, busy)] == [False, True]
    assert failures.status_of(RuntimeError("no status")) is None


def test_an_address_ends_at_its_bracket() -> None:
    error = ValueError("no answer for url (https://cas/v1?token=x) in time")
    assert failures.cause_of(error) == "no answer for url (<address>) in time"


def test_an_error_without_a_number_is_not_a_full_disk() -> None:
    def said(error: OSError) -> str:
        return str(failures.refusal(error, key="model.path", repository="a/b", kind="model", revision=None))

    assert "got I/O error: short read. Run again" in said(OSError("I/O error: short read"))
    assert "fit on this disk" in said(OSError(errno.ENOSPC, "No space left on device"))


def test_a_commit_that_is_not_there_may_be_misspelt(tmp_path: Path) -> None:
    driver = """
import sys
from pathlib import Path
from pipeline.core.errors import HubError
from pipeline.hub.location import locate
try:
    locate("a/b", "0" * 40, kind="model", lock=Path(sys.argv[1]), key="model.path")
except HubError as error:
    print(error)
"""
    hub = LoopbackHub()
    hub.commit("model", "a/b", {"config.json": b"{}"})
    code = f"import sys; sys.argv = ['', {str(tmp_path / 'hub.lock.json')!r}]\n{driver}"
    with hub.serving(), script_process(tmp_path, HF_ENDPOINT=hub.url) as process:
        done = process.run("-c", code)
    assert "misspelt, or its owner removed that commit: then a run that used it cannot be repeated." in done.out, done


# --- location ---


def test_a_name_is_settled_here_by_a_commit_or_by_the_lock_file(tmp_path: Path) -> None:
    def settled(path: str, revision: str | None = None) -> bool:
        return is_settled(path, revision, kind="dataset", lock=tmp_path / "lock.json", key="data.path")

    assert settled(str(tmp_path)) and settled("o/n", "a" * 40) and settled("o/n@" + "a" * 40)
    assert not settled("o/n") and not settled("o/n", "v1")
    LockFile(tmp_path / "lock.json").put("commits", "dataset o/n main", "b" * 40)
    assert settled("o/n") and settled("o/n@main") and not settled("o/n", "v1")


# --- rerunning ---

BASE, PAIRS = "prajjwal1/bert-tiny", "sentence-transformers/gooaq"
RETRIEVER = "sentence-transformers/static-retrieval-mrl-en-v1"
SMALLER = ["experiment=gooaq_bert_tiny", "data.rows=110", "training.max_steps=2", "training.eval_steps=2",
           "training.logging_steps=2", "training.batch_size=32", "training.eval_sets=[dev]", "evaluation.nano_beir=[]",
           "emissions.enabled=false", "runtime=cpu"]  # fmt: skip


def with_manifest(folder: Path, **key: Any) -> Path:
    """Return a model's folder, after replacing parts of its manifest's key."""
    manifest = artifacts.manifest_of(folder) or {}
    manifest["key"].update(key)
    write_json(folder / artifacts.MANIFEST, artifacts.sealed(manifest))
    return folder


def test_a_rerun_without_the_mined_set_tells_other_data_from_another_version(tmp_path: Path) -> None:
    hub, outputs = LoopbackHub(), tmp_path / "outputs"
    data = gooaq(tmp_path / "gooaq", rows=120)
    before = hub.publish("dataset", PAIRS, data)
    hub.publish("model", BASE, bert_tiny(tmp_path / "tiny"))
    hub.publish("model", RETRIEVER, static_retriever(tmp_path / "static"))
    with hub.serving(), script_process(tmp_path, HF_ENDPOINT=hub.url) as process:
        first = process.run("scripts/train.py", *SMALLER, f"outputs_dir={outputs}")
        assert first.status == 0, first
        run = (outputs / "latest").resolve()
        mined = artifacts.manifest_of(next((outputs / "mined").glob("[!.]*"))) or {}
        assert mined["key"]["version"] == VERSIONS["mine"]
        lock = (outputs / "hub.lock.json").read_bytes()
        (outputs / "hub.lock.json").unlink()
        shutil.rmtree(outputs / "mined")
        older = fingerprint({**mined["key"], "version": VERSIONS["mine"] - 1})
        copied = shutil.copytree(run / "model", tmp_path / "kept" / "copy")
        with_manifest(shutil.copytree(run / "model", tmp_path / "kept" / "model"), mine="0" * 16)

        def again(name: str, manifest: Path) -> Done:
            return process.run("scripts/rerun.py", f"manifest={manifest}", f"outputs_dir={tmp_path / name}")

        # The branch has not moved, and the mined set was made by an earlier version of mining.
        done = again("older", with_manifest(run / "model", mine=older))
        assert done.status == 0 and "not the same run: mine differ" in done.out + done.err, done

        hub.commit("dataset", PAIRS, {**hub.repositories["dataset", PAIRS].commits[before], "NEW.md": b"new"})
        # A refusal leaves nothing by which the next attempt would be accepted.
        for name, manifest in (("moved", run / "model"), ("moved", run / "model"), ("copied", copied)):
            done = again(name, manifest)
            assert done.status == 2 and f"the commits of data.path={PAIRS}" in done.err, done
        # An evaluation copied without its model records the training alone.
        evaluation = next((run / "evaluations").glob("[!.]*"))
        lone = shutil.copytree(evaluation, tmp_path / "lone" / "evaluations" / evaluation.name)
        done = again("alone", lone)
        assert done.status == 2 and f"the commits of data.path={PAIRS}" in done.err, done

        (outputs / "hub.lock.json").write_bytes(lock)
        done = again("locked", with_manifest(run / "model", mine="0" * 16))
        assert done.status == 0 and "not the same run: mine differ" in done.out + done.err, done
        assert read_json(tmp_path / "locked" / "hub.lock.json")["commits"][f"dataset {PAIRS} main"] == before


def test_a_copied_model_is_no_siblings_model(own_run: Path, tmp_path: Path) -> None:
    kept = shutil.copytree(own_run / "model", tmp_path / "kept")
    other = shutil.copytree(own_run / "model", tmp_path / "model")
    for folder, letter in ((kept, "a"), (other, "b")):
        manifest = artifacts.manifest_of(folder) or {}
        manifest["provenance"]["config"]["model"]["path"] = "o/n"
        manifest["key"]["weights"] = {"hub": "o/n", "commit": letter * 40}
        manifest["key"]["mine"] = letter
        manifest["fingerprint"] = fingerprint(manifest["key"])
        write_json(folder / artifacts.MANIFEST, artifacts.sealed(manifest))
    given = artifacts.manifest_of(kept) or {}
    model, commits = rerunning._commits(kept, given)
    assert model is not None and model["key"]["mine"] == "a" and commits == {"model.path=o/n": "a" * 40}


# --- reproduction ---


def test_only_keys_on_which_the_figures_depend_are_named() -> None:
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


def test_a_first_stage_of_another_recipe_is_not_told_by_keys_of_training(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    fact = {"id": "rows", "status": "user", "kind": "rows", "name": "rows", "value": 1}
    facts.write_text(json.dumps({"smoke": {"hub_id": "o/n", "facts": [fact]}}))
    command = [sys.executable, "scripts/reproduce.py", "experiment=smoke", "stage=first", f"facts={facts}",
               "training.batch_size=4", "seed=5", f"outputs_dir={tmp_path / 'outputs'}"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "the configuration is the recipe's, so the usual cause is" in done.stderr, done


# --- console ---


def test_a_number_of_bytes_never_rounds_up_to_a_thousand_of_its_unit() -> None:
    assert [in_bytes(size) for size in (1, 999, 999.6, 1000, 999_949, 999_999, 999_999_999, 2e12)] == [
        "1 byte", "999 bytes", "1.0 kB", "1.0 kB", "999.9 kB", "1.0 MB", "1.0 GB", "2,000.0 GB",
    ]  # fmt: skip


# --- comparison ---


def test_a_figure_that_is_no_number_is_shown_as_such() -> None:
    row = {"id": "x", "published": 1.0, "ours": math.nan, "band": "", "verdict": "FAIL", "note": ""}
    text = as_text({"experiment": "e", "published": "p", "verdicts": {"FAIL": 1}, "rows": [row]})
    assert text.splitlines()[1].split() == ["FAIL", "x", "1.0000", "nan"]
