"""A checkpoint verifies or does not count: every file of one missing, torn or altered by one bit."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from injected_faults import MaliciousPickle

from pipeline.core import artifacts
from pipeline.core.errors import ArtifactError
from pipeline.engine import checkpoints
from pipeline.engine.checkpoints import Checkpoint, folder_of, newest, prune, read, steps, write

FILES = ("model.safetensors", "optimizer.pt", "generators.pt", "facts.json", "manifest.json")


def checkpoint(step: int) -> Checkpoint:
    model = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(model.weight, step)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    facts = {"rows": [{"step": step, "loss": 0.1 + 0.2}], "best": None}
    return Checkpoint(step, weights, optimizer.state_dict(), {"torch": torch.get_rng_state()}, facts)


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_checkpoint_reads_back_as_written(tmp_path: Path) -> None:
    written = checkpoint(7)
    folder = write(tmp_path, written, {"key": "abc", "scope": {"threads": 2}})
    assert folder == folder_of(tmp_path, 7) and folder.name == "step-0000007"
    found = read(folder)
    assert found.step == 7 and found.facts == written.facts
    assert {k: v.tolist() for k, v in found.weights.items()} == {k: v.tolist() for k, v in written.weights.items()}
    assert torch.equal(found.generators["torch"], written.generators["torch"])
    assert found.optimizer["param_groups"] == written.optimizer["param_groups"]
    for name, state in written.optimizer["state"].items():
        assert all(torch.equal(found.optimizer["state"][name][k], v) for k, v in state.items())
    manifest = artifacts.manifest_of(folder)
    assert manifest is not None and (manifest["key"], manifest["scope"]) == ("abc", {"threads": 2})
    assert sorted(manifest["files"]) == sorted(FILES[:-1])


@pytest.mark.parametrize("damage", [missing, truncated, emptied, flipped])
@pytest.mark.parametrize("name", FILES)
def test_damaged_checkpoint_is_skipped_for_the_one_before(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20):
        write(tmp_path, checkpoint(step), {})
    damage(folder_of(tmp_path, 20) / name)
    with caplog.at_level(logging.WARNING):
        found = newest(tmp_path)
    assert found is not None and found.step == 10
    (message,) = caplog.messages
    assert message.startswith("skipping the checkpoint of step 20: ") and "step-0000020" in message
    assert name in message
    with pytest.raises(ArtifactError, match=r"step-0000020"):
        read(folder_of(tmp_path, 20))


def test_no_valid_checkpoint_is_an_error_not_a_restart(tmp_path: Path) -> None:
    for step in (10, 20):
        write(tmp_path, checkpoint(step), {})
        flipped(folder_of(tmp_path, step) / "optimizer.pt")
    with pytest.raises(ArtifactError, match=r"must hold a checkpoint that verifies, got none of 2: .*delete .* start"):
        newest(tmp_path)


def test_folder_without_checkpoints_gives_none(tmp_path: Path) -> None:
    assert newest(tmp_path) is None and newest(tmp_path / "never") is None
    (tmp_path / "step-1").mkdir()
    (tmp_path / ".step-0000005.123.partial").mkdir()
    (tmp_path / "step-0000009").write_text("a file")
    assert steps(tmp_path) == [] and newest(tmp_path) is None


def test_manifest_that_omits_a_file_does_not_verify(tmp_path: Path) -> None:
    folder = write(tmp_path, checkpoint(1), {})
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["optimizer.pt"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "optimizer.pt").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json is not as it was written"):
        read(folder)


@pytest.mark.parametrize("name", ["optimizer.pt", "generators.pt"])
def test_pickle_that_would_run_code_is_refused(tmp_path: Path, name: str) -> None:
    good = write(tmp_path / "run", checkpoint(1), {})
    mark = tmp_path / "mark"
    work = tmp_path / "forged"
    shutil.copytree(good, work)
    (work / "manifest.json").unlink()
    shutil.rmtree(good)
    with artifacts.publish(good, {}) as folder:
        shutil.copytree(work, folder, dirs_exist_ok=True)
        torch.save(MaliciousPickle(mark), folder / name)
    with pytest.raises(ArtifactError, match=r"step-0000001"):
        read(good)
    assert not mark.exists()
    torch.load(good / name, weights_only=False)
    assert mark.exists(), "the pickle does run code where pickles are trusted"


def test_lack_of_memory_while_reading_is_raised_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    write(tmp_path, checkpoint(7), {})
    monkeypatch.setattr(checkpoints.torch, "load", short)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        newest(tmp_path)


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        write(tmp_path, checkpoint(step), {})
    prune(tmp_path, keep=2, also=10)
    assert steps(tmp_path) == [10, 30, 40]
    prune(tmp_path, keep=1)
    assert steps(tmp_path) == [40]
    prune(tmp_path, keep=3)
    assert steps(tmp_path) == [40]


def test_prune_waits_until_the_newest_verifies(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, checkpoint(step), {})
    truncated(folder_of(tmp_path, 30) / "model.safetensors")
    prune(tmp_path, keep=1)
    assert steps(tmp_path) == [10, 20, 30]
    found = newest(tmp_path)
    assert found is not None and found.step == 20
    write(tmp_path, checkpoint(30), {})
    prune(tmp_path, keep=1)
    assert steps(tmp_path) == [30]


def test_checkpoint_of_the_same_step_replaces_the_folder(tmp_path: Path) -> None:
    write(tmp_path, checkpoint(5), {"piece": 1})
    other = checkpoint(5)
    other.facts["best"] = 0.5
    write(tmp_path, other, {"piece": 2})
    assert checkpoints.steps(tmp_path) == [5] and read(folder_of(tmp_path, 5)).facts["best"] == 0.5
