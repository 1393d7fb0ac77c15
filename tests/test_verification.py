"""Verify and rerun on a real tiny run: bits agree, and every kind of damage is named."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from composed_config import composed
from safetensors.torch import load_file, save_file

from pipeline.commands import rerunning, run_files, verification
from pipeline.commands.verification import Verdict
from pipeline.config.command_arguments import Rerun, Verification
from pipeline.core import artifacts, atomic
from pipeline.core.errors import ArtifactError, ResourceError
from pipeline.core.fingerprint import plain
from pipeline.engine import checkpoints
from pipeline.stages.run import run

PT = {"format": "pt"}
"""What transformers looks for in a weights file."""

TINY = [
    *["experiment=smoke", "data.limit=150", "data.dev_queries=20", "data.validation_queries=0", "runtime=cpu"],
    *["training.eval_sets=[]", "training.max_steps=6", "training.eval_steps=3", "mining.dev_depth=5"],
    *["runtime.workers=1", "runtime.threads=1", "emissions=off", "model.dropout=0.1"],
    *["evaluation.bi_encoder=false", "evaluation.fusion=false"],
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one run, dropout on, so that generators matter."""
    outputs = tmp_path_factory.mktemp("finished")
    assert run(composed(*TINY, f"outputs_dir={outputs}"))
    return outputs


@pytest.fixture
def outputs(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs"


def verdict(outputs: Path) -> Verdict:
    return verification.verify(Verification(outputs_dir=str(outputs)))


def resealed(folder: Path) -> None:
    """Describe a folder anew, as somebody would who wants an altered file to pass."""
    manifest = artifacts.manifest_of(folder)
    assert manifest is not None
    files = {**manifest, "files": artifacts.describe(folder)}
    atomic.write_json(folder / artifacts.MANIFEST, artifacts.sealed(files))


def test_a_run_verifies_to_the_bit_and_is_left_as_it_was(outputs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*")}
    found = verdict(outputs)
    assert found.verified, str(found)
    assert str(found).startswith("VERIFIED")
    assert "equal in every digit and rank" in str(found)
    assert "steps 4 to 6 repeated: weights bit-identical" in str(found)
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*")} == before


@pytest.mark.parametrize(("deleted", "said"), [([3], "only that of step 6 is kept"), ([3, 6], "none is kept")])
def test_without_two_checkpoints_training_is_not_repeated(outputs: Path, deleted: list[int], said: str) -> None:
    for step in deleted:
        shutil.rmtree(checkpoints.folder_of(outputs / "latest" / "checkpoints", step))
    found = verdict(outputs)
    assert found.verified, str(found)
    assert found.checked[-1] == (
        f"training: not repeated, because that takes two checkpoints and {said} "
        "(training.keep_checkpoints=2 and training.eval_steps above 0 and below a run's number of steps keep two)"
    )


@pytest.mark.parametrize("fault", ["missing", "truncated", "flipped"])
def test_every_file_of_every_folder_is_vouched_for(outputs: Path, fault: str) -> None:
    run = (outputs / "latest").resolve()
    folders = [p.parent for p in outputs.rglob("manifest.json") if "cache" not in p.parts]
    files = [path for folder in folders for path in (*artifacts.files(folder), folder / artifacts.MANIFEST)]
    assert len(files) >= 40
    for path in files:
        data = path.read_bytes()
        middle = len(data) // 2
        if fault == "missing":
            path.unlink()
        elif fault == "truncated":
            path.write_bytes(data[:middle])
        else:
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        differs, _ = run_files.check(run)
        path.write_bytes(data)
        # A token table is made again at need: without its manifest it is none, which loses nothing.
        if not ("tokens" in path.parts and path.name == artifacts.MANIFEST and fault == "missing"):
            assert differs, path
            assert str(path.parent) in " ".join(differs)


def test_a_comparison_that_no_command_made_is_named_and_shown_nowhere(outputs: Path) -> None:
    folder = (outputs / "latest").resolve()
    atomic.write_json(folder / "reproduction.json", {"rows": [], "verdicts": {"OK": 99}, "experiment": "x"})
    assert run(composed(*TINY, f"outputs_dir={outputs}"))
    assert "Reproduction" not in (folder / "README.md").read_text()
    (said,) = run_files.check(folder)[0]
    assert said.startswith(f"{folder / 'reproduction.json'} was altered, or compares other figures")


@pytest.mark.parametrize("name", ["README.md", "summary.json", "config.yaml", "metrics.jsonl"])
def test_a_copy_for_people_that_was_altered_is_named_and_the_next_run_makes_it_again(outputs: Path, name: str) -> None:
    path = (outputs / "latest").resolve() / name
    good = path.read_bytes()
    altered = {"config.yaml": good.replace(b"seed: 12", b"seed: 13")}.get(name, good[:-2])
    assert altered != good
    again = "Repeat the run's command: it trains nothing and writes the file again"
    for data, state in ((altered, "differs from what the run wrote"), (None, "is missing")):
        path.unlink() if data is None else path.write_bytes(data)
        found = verdict(outputs)
        assert found.differs == [f"{path} {state}. {again}"], str(found)
        assert run(composed(*TINY, f"outputs_dir={outputs}"))
        assert run_files.check(path.parent)[0] == []
    assert path.read_bytes().replace(str(outputs).encode(), b"") == good.replace(str(outputs).encode(), b"")


@pytest.mark.parametrize("how", ["copied elsewhere", "deleted"])
def test_a_mined_set_that_is_not_beside_the_run_is_said_not_to_be(outputs: Path, tmp_path: Path, how: str) -> None:
    place = (outputs / "latest").resolve()
    if how == "deleted":
        shutil.rmtree(outputs / "mined")
    else:
        place = Path(shutil.copytree(place, tmp_path / "elsewhere" / "runs" / place.name))
    found = verification.verify(Verification(run=str(place), outputs_dir=str(outputs)))
    mined = (artifacts.manifest_of(place / "model") or {})["key"]["mine"]
    assert found.differs == [
        f"{place.parents[1] / 'mined'} must hold the mined set the run was trained on, got no folder *-{mined}. "
        "Copy mined/ along with runs/, or repeat the run's command"
    ]


def test_a_checkout_that_git_tells_nothing_of_is_not_compared(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = artifacts.manifest_of((outputs / "latest").resolve() / "model")
    assert manifest is not None
    manifest["provenance"]["git"] = {"commit": "0" * 40, "dirty": False}
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    found = Verdict(outputs)
    verification._circumstances(found, manifest)
    (line,) = [line for line in found.checked if line.startswith("code: ")]
    assert line == "code: not compared, since git gives no commit for this checkout (`git status` there says why)"
    monkeypatch.delenv("GIT_DIR")
    manifest["provenance"]["git"] = {"commit": None, "dirty": None}
    verification._circumstances(found, manifest)
    assert "since git gives no commit for " in found.checked[-1] + found.checked[-3]


def test_a_full_folder_of_temporary_files_is_named(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    said = r"^/.* \(TMPDIR\) must hold a copy of a checkpoint, got .*No space left on device\. Free space "
    with pytest.raises(ResourceError, match=said):
        verdict(outputs)


def test_other_weights_under_good_digests_are_found_by_figures_and_training(outputs: Path) -> None:
    run = (outputs / "latest").resolve()
    weights = load_file(run / "model" / "model.safetensors")
    save_file({name: tensor + 0.05 for name, tensor in weights.items()}, run / "model" / "model.safetensors", PT)
    resealed(run / "model")
    last = checkpoints.folder_of(run / "checkpoints", 6)
    weights = load_file(last / "model.safetensors")
    save_file({name: tensor * (1 + 1e-6) for name, tensor in weights.items()}, last / "model.safetensors")
    resealed(last)
    found = verdict(outputs)
    assert [line.partition(":")[0] for line in found.differs] == ["figures", "weights", "training"], str(found)
    assert "the scope is the same, so weights or data differ" in found.differs[2]


def test_another_scope_is_said_and_compared_to_a_tolerance(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = verification._scope
    monkeypatch.setattr(verification, "_scope", lambda run, reranker: {**ours(run, reranker), "threads": 64})
    last = checkpoints.folder_of((outputs / "latest").resolve() / "checkpoints", 6)
    weights = load_file(last / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + torch.full_like(weights[name], 2e-6)
    save_file(weights, last / "model.safetensors")
    resealed(last)
    line = next(line for line in verdict(outputs).checked if line.startswith("training"))
    assert "apart; this machine is outside the run's scope: threads 1 → 64" in line


def test_only_another_known_scope_is_a_cause_that_allows_a_tolerance() -> None:
    one, other = {"threads": 1}, {"threads": 64}
    assert verification._cause(one, other) == (
        True,
        "this machine is outside the run's scope: threads 1 → 64 (to be inside it: OMP_NUM_THREADS=1 make verify …)",
    )
    assert verification._cause(one, one) == (False, "the scope is the same, so weights or data differ")
    assert verification._cause(None, one) == (
        False,
        "the run's training.json records no scope, so the cause is unknown",
    )


def test_an_unfinished_run_is_not_verified(outputs: Path) -> None:
    shutil.rmtree((outputs / "latest").resolve() / "card")
    found = verdict(outputs)
    assert "card has no manifest.json" in str(found)
    assert str(found).startswith("NOT VERIFIED")
    with pytest.raises(ArtifactError, match="must point at a finished run"):
        verdict(outputs / "absent")


def test_rerun_gives_the_same_names_and_the_same_bits(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/rerun.py", "manifest=outputs/latest/model"])
    run = (outputs / "latest").resolve()
    rerunning.rerun(Rerun(manifest=str(run / "model"), outputs_dir=str(tmp_path / "again")))
    again = (tmp_path / "again" / "latest").resolve()
    assert again == tmp_path / "again" / "runs" / run.name
    for kind in ("mined", "tokens", f"runs/{run.name}/evaluations"):
        names = [{path.name for path in (root / kind).glob("[!.]*")} for root in (outputs, tmp_path / "again")]
        assert names[0] == names[1] and len(names[0]) == 1
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, again)]
    assert weights[0] == weights[1]
    before, now = (atomic.read_json(of / "model" / "manifest.json")["provenance"]["command"] for of in (run, again))
    assert now == [*before, f"outputs_dir={tmp_path / 'again'}"]


def test_rerun_of_a_run_whose_data_moved_says_what_can_be_done(outputs: Path, tmp_path: Path) -> None:
    config, _ = rerunning.configuration(
        Rerun(manifest=str(next(outputs.glob("runs/*/model"))), outputs_dir=str(tmp_path))
    )
    rerunning._find_inputs(config)
    gone = dataclasses.replace(config.data, path=str(tmp_path / "gone.jsonl"))
    said = (
        r"^data\.path=.*gone\.jsonl must be where the run read it, got nothing there\. Put it back, or give the run's "
    )
    with pytest.raises(ArtifactError, match=said):
        rerunning._find_inputs(dataclasses.replace(config, data=gone))


def test_rerun_of_a_run_that_asked_the_hub_anew_does_not(outputs: Path) -> None:
    folder = (outputs / "latest" / "model").resolve()
    manifest = artifacts.manifest_of(folder) or {}
    manifest["provenance"]["config"]["hub"]["refresh"] = True
    atomic.write_json(folder / artifacts.MANIFEST, artifacts.sealed(manifest))
    config, read = rerunning.configuration(Rerun(manifest=str(folder)))
    assert read["provenance"]["config"]["hub"]["refresh"] and not config.hub.refresh


def test_rerun_of_any_stage_composes_the_recorded_run(outputs: Path) -> None:
    for path in outputs.rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        if "provenance" in manifest:
            config, _ = rerunning.configuration(Rerun(manifest=str(path)))
            assert plain(config) == manifest["provenance"]["config"]
