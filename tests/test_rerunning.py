"""Reruns from a manifest: the same names and bits, from the configuration that was recorded."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_fixtures import bert_tiny, gooaq, static_retriever
from loopback_hub import LoopbackHub
from script_process import Done, ScriptProcess, script_process
from small_models import model_config, tiny
from tiny_run import mined_set, only

from pipeline.commands import rerunning
from pipeline.config.command_arguments import Rerun
from pipeline.core import artifacts, atomic
from pipeline.core.atomic import read_json, write_json
from pipeline.core.errors import ArtifactError
from pipeline.core.fingerprint import fingerprint, plain
from pipeline.engine import model_files
from pipeline.stages.plan import VERSIONS


def test_rerun_gives_the_same_names_and_bits(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/rerun.py", "manifest=outputs/latest/model"])
    rerunning.rerun(Rerun(manifest=str(finished_run / "model"), outputs_dir=str(tmp_path / "again")))
    again = (tmp_path / "again" / "latest").resolve()
    assert again == tmp_path / "again" / "runs" / finished_run.name
    outputs = (finished_run.parents[1], tmp_path / "again")
    for kind in ("mined", "tokens", f"runs/{finished_run.name}/evaluations"):
        names = [{path.name for path in (folder / kind).glob("[!.]*")} for folder in outputs]
        assert names[0] == names[1] and len(names[0]) == 1
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (finished_run, again)]
    assert weights[0] == weights[1]
    manifests = [atomic.read_json(folder / "model" / "manifest.json") for folder in (finished_run, again)]
    before, now = (manifest["provenance"]["command"] for manifest in manifests)
    assert now == [*before, f"outputs_dir={tmp_path / 'again'}"]


def test_rerun_with_moved_data_names_the_remedies(finished_run: Path, tmp_path: Path) -> None:
    config, _ = rerunning.configuration(Rerun(manifest=str(finished_run / "model"), outputs_dir=str(tmp_path)))
    rerunning._find_inputs(config)
    gone = dataclasses.replace(config.data, path=str(tmp_path / "gone.jsonl"))
    rule = r"^data\.path=.*gone\.jsonl must be where the run read it, got nothing there\."
    with pytest.raises(ArtifactError, match=rule + r" Put it back, or give the run's "):
        rerunning._find_inputs(dataclasses.replace(config, data=gone))


def test_rerun_does_not_refresh_the_hub_again(own_run: Path) -> None:
    folder = own_run / "model"
    manifest = artifacts.manifest_of(folder) or {}
    manifest["provenance"]["config"]["hub"]["refresh"] = True
    atomic.write_json(folder / artifacts.MANIFEST, artifacts.sealed(manifest))
    config, read = rerunning.configuration(Rerun(manifest=str(folder)))
    assert read["provenance"]["config"]["hub"]["refresh"] and not config.hub.refresh


def test_manifest_of_any_stage_gives_the_recorded_configuration(finished_run: Path) -> None:
    stages = set()
    for path in finished_run.parents[1].rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        if "provenance" in manifest:  # neither token tables nor checkpoints name a command of their own
            config, _ = rerunning.configuration(Rerun(manifest=str(path)))
            assert plain(config) == manifest["provenance"]["config"]
            stages.add(manifest["artifact"])
    assert stages == {"mine", "train", "evaluate", "card"}


# --- revisions that moved ---

BASE, PAIRS = "prajjwal1/bert-tiny", "sentence-transformers/gooaq"
RETRIEVER, RIVAL = "sentence-transformers/static-retrieval-mrl-en-v1", "tester/rival"
SMALLER = ["experiment=gooaq_bert_tiny", "data.rows=110", "training.max_steps=2", "training.eval_steps=2",
           "training.logging_steps=2", "training.batch_size=32", "training.eval_sets=[dev]", "evaluation.nano_beir=[]",
           f"evaluation.rivals=[{RIVAL}]", "emissions.enabled=false", "runtime=cpu"]  # fmt: skip


@dataclass
class HubRun:
    """A finished run of hub artefacts, all of whose branches have a newer commit since."""

    run: Path
    hub: LoopbackHub
    process: ScriptProcess
    commits: dict[tuple[str, str], str]
    """The commits that the run took: (kind, name) → commit."""

    @property
    def cache(self) -> Path:
        return self.run.parents[2] / "home" / "hub"

    def rerun(self, manifest: Path, outputs: Path) -> Done:
        return self.process.run("scripts/rerun.py", f"manifest={manifest}", f"outputs_dir={outputs}")

    def copied(self, folder: Path) -> Path:
        """Copy the run and its mined set, without the lock file, to outputs in `folder`; return the copied run."""
        for name in ("runs", "mined"):
            shutil.copytree(self.run.parents[1] / name, folder / name)
        return folder / "runs" / self.run.name


@pytest.fixture(scope="module")
def hub_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubRun]:
    root, hub = tmp_path_factory.mktemp("hub_run"), LoopbackHub()
    folders = {
        ("dataset", PAIRS): gooaq(root / "gooaq", rows=120),
        ("model", BASE): bert_tiny(root / "tiny"),
        ("model", RETRIEVER): static_retriever(root / "static"),
        ("model", RIVAL): root / "rival",
    }
    (root / "rival").mkdir()
    model_files.save(tiny(root / "tiny"), root / "rival", model_config(root / "tiny"))
    commits = {repository: hub.publish(*repository, folder) for repository, folder in folders.items()}
    outputs = root / "outputs"
    with hub.serving(), script_process(root, HF_ENDPOINT=hub.url) as process:
        trained = process.run("scripts/train.py", *SMALLER, f"outputs_dir={outputs}")
        assert trained.status == 0, trained
        newer = {
            repository: hub.commit(*repository, {**hub.repositories[repository].commits[commit], "NEW.md": b"new"})
            for repository, commit in commits.items()
        }
        refreshed = process.run("scripts/check.py", *SMALLER, f"outputs_dir={outputs}", "hub.refresh=true")
        assert refreshed.status == 0, refreshed
        locked = set(atomic.read_json(outputs / "hub.lock.json")["commits"].values())
        assert {newer["dataset", PAIRS], newer["model", BASE], newer["model", RETRIEVER]} <= locked
        yield HubRun((outputs / "latest").resolve(), hub, process, commits)


@pytest.mark.parametrize("place", ["beside a refreshed lock file", "copied without its lock file"])
def test_rerun_takes_the_recorded_commits(hub_run: HubRun, tmp_path: Path, place: str) -> None:
    evaluation = only(hub_run.run, "evaluations/[!.]*").name
    if place == "beside a refreshed lock file":
        manifest = hub_run.run / "model"
    else:
        manifest = hub_run.copied(tmp_path / "copied") / "evaluations" / evaluation
    done = hub_run.rerun(manifest, tmp_path / "again")
    assert done.status == 0 and "not the same run" not in done.out, done
    again = (tmp_path / "again" / "latest").resolve()
    assert again.name == hub_run.run.name
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (hub_run.run, again)]
    assert weights[0] == weights[1]
    assert only(again, "evaluations/[!.]*").name == evaluation


def test_rerun_without_the_mined_set_is_refused(hub_run: HubRun, tmp_path: Path) -> None:
    """Only the mined set records the commit of its data."""
    copied = hub_run.copied(tmp_path / "copied")
    shutil.rmtree(mined_set(copied))
    done = hub_run.rerun(copied / "model", tmp_path / "again")
    assert done.status == 2 and "the commits of data.path=" in done.err and "Copy the run's mined/" in done.err, done


def test_rerun_of_a_commit_gone_from_the_hub_is_refused(
    hub_run: HubRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ("model", BASE)
    monkeypatch.delitem(hub_run.hub.repositories[base].commits, hub_run.commits[base])
    shutil.rmtree(hub_run.cache / f"models--{BASE.replace('/', '--')}")
    done = hub_run.rerun(hub_run.run / "model", tmp_path / "again")
    assert done.status == 2 and hub_run.commits[base] in done.err and "cannot be repeated" in done.err, done
    assert not (tmp_path / "again" / "runs").exists()


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


def test_rerun_without_the_mined_set_accepts_another_version_but_no_other_data(tmp_path: Path) -> None:
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
        done = again("locked", with_manifest(run / "model", mine=older))
        assert done.status == 0 and "not the same run: mine differ" in done.out + done.err, done
        assert read_json(tmp_path / "locked" / "hub.lock.json")["commits"][f"dataset {PAIRS} main"] == before


def test_copied_model_takes_its_own_commits(own_run: Path, tmp_path: Path) -> None:
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
