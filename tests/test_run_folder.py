"""Which run a command means, and what belongs to it; `test_verification` damages each of its folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands.run_folder import find_run, folders_of, mined_of, model_folder
from pipeline.core import artifacts, atomic
from pipeline.core.errors import ArtifactError


def test_a_run_is_found_by_name_path_or_as_the_newest(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    run = outputs / "runs" / "tiny-0123"
    (run / "model").mkdir(parents=True)
    (outputs / "runs" / "stopped-4567").mkdir()
    atomic.point(outputs / "latest", run)
    assert find_run(None, str(outputs)) == find_run("tiny-0123", str(outputs)) == find_run(str(run), "elsewhere") == run
    assert find_run(str(run / "model"), "elsewhere") == run
    with pytest.raises(ArtifactError, match=r"run must name a folder .*, got 'other'. Choose among tiny-0123."):
        find_run("other", str(outputs))
    with pytest.raises(ArtifactError, match=r"latest must point at a finished run, got none. Run `make train` first."):
        find_run(None, str(tmp_path / "other"))
    shutil.copytree(outputs, tmp_path / "copy")
    with pytest.raises(ArtifactError, match=r"latest must be a link, got a folder\. Rename it .*run=<folder>"):
        find_run(None, str(tmp_path / "copy"))
    assert find_run("tiny-0123", str(tmp_path / "copy")) == tmp_path / "copy" / "runs" / "tiny-0123"


def test_a_folder_at_the_root_of_a_disk_has_no_mined_set_beside_it() -> None:
    assert mined_of(Path("/alone"), {"key": {"mine": "no-such-fingerprint"}}) is None


def test_an_altered_model_is_refused(tmp_path: Path) -> None:
    with artifacts.publish(tmp_path / "model", {}) as folder:
        (folder / "model.safetensors").write_bytes(b"weights")
    assert model_folder(tmp_path) == tmp_path / "model"
    (tmp_path / "model" / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ArtifactError, match=r"must be complete, got: .*was altered"):
        model_folder(tmp_path)
    (tmp_path / "model" / artifacts.MANIFEST).write_text("{")
    with pytest.raises(ArtifactError, match=r"got: .*unreadable JSON \(.*\)\. Run its training again\.$"):
        model_folder(tmp_path)


def test_a_run_s_folders_come_in_the_order_they_were_made(tmp_path: Path) -> None:
    """Another run's token table is not among them; an evaluation that the card names and that is gone is."""
    run, mined = tmp_path / "runs" / "tiny-0123", tmp_path / "mined" / "data-aaa"
    made = {
        mined: {},
        tmp_path / "tokens" / "data-1": {"key": {"mine": "aaa"}},
        tmp_path / "tokens" / "data-2": {"key": {"mine": "bbb"}},
        run / "checkpoints" / "step-0000003": {},
        run / "checkpoints" / "step-0000012": {},
        run / "model": {"key": {"mine": "aaa"}},
        run / "evaluations" / "dev-1": {},
        run / "card": {"key": {"evaluations": {"dev": "dev-1", "nq": "nq-2"}}},
    }
    for folder, manifest in made.items():
        with artifacts.publish(folder, manifest):
            pass
    own = [folder for folder in made if folder.name != "data-2"]
    assert folders_of(run) == [*own[:-1], run / "evaluations" / "nq-2", run / "card"]
    assert mined_of(run, {"key": {"mine": "aaa"}}) == mined
    shutil.rmtree(mined)
    assert mined_of(run, {"key": {"mine": "aaa"}}) is None
    assert folders_of(run) == [*own[1:-1], run / "evaluations" / "nq-2", run / "card"]


def test_a_run_is_found_without_loading_torch(root: Path) -> None:
    code = "import sys; from pipeline.commands import prediction; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)
