"""Verification of a finished run: what is compared, and that every kind of damage is reported."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import run_tiny

from pipeline.commands import run_files, verification
from pipeline.commands.verification import Verdict
from pipeline.config.command_arguments import Verification
from pipeline.core import artifacts, atomic
from pipeline.core.errors import ArtifactError, ResourceError
from pipeline.engine import checkpoints

PT = {"format": "pt"}
"""What transformers looks for in a weights file."""


def verdict(outputs: Path) -> Verdict:
    return verification.verify(Verification(outputs_dir=str(outputs)))


def resealed(folder: Path) -> None:
    """Describe a folder anew, as somebody would who wants an altered file to pass."""
    manifest = artifacts.manifest_of(folder)
    assert manifest is not None
    files = {**manifest, "files": artifacts.describe(folder)}
    atomic.write_json(folder / artifacts.MANIFEST, artifacts.sealed(files))


def test_finished_run_verifies_bit_identical_and_stays_unchanged(own_outputs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_outputs.rglob("*")}
    found = verdict(own_outputs)
    assert found.verified, str(found)
    assert str(found).startswith("VERIFIED")
    assert "equal in every digit and rank" in str(found)
    assert "steps 4 to 6 repeated: weights bit-identical" in str(found)
    assert {path: path.stat().st_mtime_ns for path in own_outputs.rglob("*")} == before


@pytest.mark.parametrize(
    ("deleted", "reason"), [([3], "only that of step 6 is kept"), ([3, 6], "none is kept")], ids=["one", "none"]
)
def test_training_is_not_repeated_without_two_checkpoints(own_outputs: Path, deleted: list[int], reason: str) -> None:
    for step in deleted:
        shutil.rmtree(checkpoints.folder_of(own_outputs / "latest" / "checkpoints", step))
    found = verdict(own_outputs)
    assert found.verified, str(found)
    assert found.checked[-1] == (
        f"training: not repeated, because that takes two checkpoints and {reason} "
        "(training.keep_checkpoints=2 and training.eval_steps above 0 and below a run's number of steps keep two)"
    )


@pytest.mark.parametrize("fault", ["missing", "truncated", "flipped"])
def test_damage_to_any_file_of_any_folder_is_reported(own_outputs: Path, fault: str) -> None:
    run = (own_outputs / "latest").resolve()
    folders = [p.parent for p in own_outputs.rglob("manifest.json") if "cache" not in p.parts]
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


def test_forged_reproduction_json_is_reported_and_not_shown(own_outputs: Path) -> None:
    folder = (own_outputs / "latest").resolve()
    atomic.write_json(folder / "reproduction.json", {"rows": [], "verdicts": {"OK": 99}, "experiment": "x"})
    assert run_tiny(own_outputs)
    assert "Reproduction" not in (folder / "README.md").read_text()
    (message,) = run_files.check(folder)[0]
    assert message.startswith(f"{folder / 'reproduction.json'} was altered, or compares other figures")


@pytest.mark.parametrize("name", ["README.md", "summary.json", "config.yaml", "metrics.jsonl"])
def test_altered_copy_is_reported_and_restored_by_the_next_run(own_outputs: Path, name: str) -> None:
    path = (own_outputs / "latest").resolve() / name
    good = path.read_bytes()
    altered = {"config.yaml": good.replace(b"seed: 12", b"seed: 13")}.get(name, good[:-2])
    assert altered != good
    again = "Repeat the run's command: it trains nothing and writes the file again"
    for data, state in ((altered, "differs from what the run wrote"), (None, "is missing")):
        path.unlink() if data is None else path.write_bytes(data)
        found = verdict(own_outputs)
        assert found.differs == [f"{path} {state}. {again}"], str(found)
        assert run_tiny(own_outputs)
        assert run_files.check(path.parent)[0] == []
    assert path.read_bytes().replace(str(own_outputs).encode(), b"") == good.replace(str(own_outputs).encode(), b"")


@pytest.mark.parametrize("how", ["copied elsewhere", "deleted"])
def test_missing_mined_set_is_reported(own_outputs: Path, tmp_path: Path, how: str) -> None:
    place = (own_outputs / "latest").resolve()
    if how == "deleted":
        shutil.rmtree(own_outputs / "mined")
    else:
        place = Path(shutil.copytree(place, tmp_path / "elsewhere" / "runs" / place.name))
    found = verification.verify(Verification(run=str(place), outputs_dir=str(own_outputs)))
    mined = (artifacts.manifest_of(place / "model") or {})["key"]["mine"]
    assert found.differs == [
        f"{place.parents[1] / 'mined'} must hold the mined set the run was trained on, got no folder *-{mined}. "
        "Copy mined/ along with runs/, or repeat the run's command"
    ]


def test_code_is_not_compared_where_git_gives_no_commit(own_outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = artifacts.manifest_of((own_outputs / "latest").resolve() / "model")
    assert manifest is not None
    manifest["provenance"]["git"] = {"commit": "0" * 40, "dirty": False}
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    found = Verdict(own_outputs)
    verification._circumstances(found, manifest)
    (line,) = [line for line in found.checked if line.startswith("code: ")]
    assert line == "code: not compared, since git gives no commit for this checkout (`git status` there says why)"
    monkeypatch.delenv("GIT_DIR")
    manifest["provenance"]["git"] = {"commit": None, "dirty": None}
    verification._circumstances(found, manifest)
    assert "since git gives no commit for " in found.checked[-1] + found.checked[-3]


def test_full_temporary_folder_is_refused_by_name(own_outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    message = r"^/.* \(TMPDIR\) must hold a copy of a checkpoint, got .*No space left on device\. Free space "
    with pytest.raises(ResourceError, match=message):
        verdict(own_outputs)


def test_altered_weights_with_valid_digests_change_figures_and_training(own_outputs: Path) -> None:
    run = (own_outputs / "latest").resolve()
    weights = load_file(run / "model" / "model.safetensors")
    save_file({name: tensor + 0.05 for name, tensor in weights.items()}, run / "model" / "model.safetensors", PT)
    resealed(run / "model")
    last = checkpoints.folder_of(run / "checkpoints", 6)
    weights = load_file(last / "model.safetensors")
    save_file({name: tensor * (1 + 1e-6) for name, tensor in weights.items()}, last / "model.safetensors")
    resealed(last)
    found = verdict(own_outputs)
    assert [line.partition(":")[0] for line in found.differs] == ["figures", "weights", "training"], str(found)
    assert "the scope is the same, so weights or data differ" in found.differs[2]


def test_weights_of_another_scope_are_compared_to_a_tolerance(
    own_outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = verification._scope
    monkeypatch.setattr(verification, "_scope", lambda run, reranker: {**ours(run, reranker), "threads": 64})
    last = checkpoints.folder_of((own_outputs / "latest").resolve() / "checkpoints", 6)
    weights = load_file(last / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + torch.full_like(weights[name], 2e-6)
    save_file(weights, last / "model.safetensors")
    resealed(last)
    line = next(line for line in verdict(own_outputs).checked if line.startswith("training"))
    assert "apart; this machine is outside the run's scope: threads 1 → 64" in line


def test_only_a_known_other_scope_allows_a_tolerance() -> None:
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


def test_unfinished_run_is_not_verified(own_outputs: Path) -> None:
    shutil.rmtree((own_outputs / "latest").resolve() / "card")
    found = verdict(own_outputs)
    assert "card has no manifest.json" in str(found)
    assert str(found).startswith("NOT VERIFIED")
    with pytest.raises(ArtifactError, match="must point at a finished run"):
        verdict(own_outputs / "absent")
