"""A disk that is full or read-only, no memory: one sentence, exit status 2, and everything finished before it is kept.

W&B or codecarbon failing: the run goes on and says so at its end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.config.command_arguments import Faults
from pipeline.core import artifacts, atomic
from pipeline.core.errors import EXIT_STATUS, ArtifactError, ResourceError
from pipeline.faults import campaign
from pipeline.faults.victim import TRAIN, Place, Server

SMOKE = campaign.arguments(Faults())
DIES = """
import errno, os
left = [int(os.environ["SYNCS"])]
real = os.fsync
def fsync(descriptor):
    left[0] -= 1
    if left[0] < 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file of ours")
    real(descriptor)
os.fsync = fsync
"""
"""A sitecustomize: after so many syncs every further one finds the disk full."""

KINDS = {"mined": "mined/*", "tokens": "tokens/*", "checkpoints": "runs/*/checkpoints/*", "model": "runs/*/model",
         "evaluation": "runs/*/evaluations/*", "card": "runs/*/card"}  # fmt: skip
"""Kind of folder → where a run makes it, in the order of making."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("home"))
    yield server
    server.close()


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Place:
    return Place(tmp_path / "run", SMOKE, server)


def mounted(folder: Path, options: str) -> bool:
    done = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True
    )
    return bool(done) and done.returncode == 0


def remounted(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=3m"):
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_refused(console: str, status: int) -> None:
    lines = [line for line in console.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and status == EXIT_STATUS, console
    assert "Traceback" not in console and "bug" not in lines[0], console


def complete_kinds(outputs: Path) -> set[str]:
    """Return the kinds of the complete folders, each of which must verify; none may be left half written."""
    folders = [path.parent for path in outputs.rglob(artifacts.MANIFEST)]
    assert all(artifacts.problems(folder) == [] for folder in folders)
    assert list(outputs.rglob(f"*{atomic.PARTIAL}")) == []
    return {kind for kind in KINDS if list(outputs.glob(f"{KINDS[kind]}/{artifacts.MANIFEST}"))}


# --- Disk -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["numpy", "torch", "safetensors", "python", "parquet"])
def test_full_disk_in_any_library_is_refused(small_disk: Path, writer: str) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import save_file

    with artifacts.publish(small_disk / "before", {}) as work:
        (work / "x").write_text("kept")
    big = torch.rand(2**20)
    write = {
        "numpy": lambda path: np.save(path, big.numpy()),
        "torch": lambda path: torch.save(big, path),
        "safetensors": lambda path: save_file({"a": big}, path),
        "python": lambda path: path.write_bytes(bytes(2**22)),
        "parquet": lambda path: pq.write_table(pa.table({"a": big.numpy()}), path),
    }[writer]
    full = pytest.raises(ResourceError, match="must have room for it, got a full disk")
    with full, artifacts.publish(small_disk / "after", {}) as work:
        write(work / "big")
    assert [path.name for path in small_disk.iterdir()] == ["before"]
    assert artifacts.is_complete(small_disk / "before")


def test_pipeline_error_on_a_full_disk_is_not_replaced(small_disk: Path) -> None:
    (small_disk / "rest").write_bytes(bytes(3 * 2**20 - 2**17))
    with pytest.raises(ArtifactError, match="ours"), artifacts.publish(small_disk / "x", {}):
        raise ArtifactError("ours")


@pytest.mark.parametrize("size", ["300k", "20m", pytest.param("2m", marks=pytest.mark.slow), "55m"])
def test_run_on_a_full_disk_is_refused_and_continues_when_there_is_room(
    small_disk: Path, place: Place, size: str
) -> None:
    remounted(small_disk, f"size={size}")
    place.outputs.symlink_to(small_disk)
    status = place.finish()
    assert_refused(place.said(), status)
    assert ("mined" in complete_kinds(small_disk)) == (size != "300k")
    kept = {name: written for name, written in place.complete().items() if name.startswith("mined")}
    assert len(kept) == (size != "300k")
    remounted(small_disk, "size=200m")
    assert place.finish() == 0, place.said()
    assert complete_kinds(small_disk) == set(KINDS)
    assert kept.items() <= place.complete().items(), "what was finished is not made again"


@pytest.mark.parametrize(
    ("syncs", "kinds"),
    [(3, set()), pytest.param(16, set(), marks=pytest.mark.slow), (45, {"mined"})],
    ids=["3", "16", "45"],
)
def test_disk_that_fills_up_at_any_sync_is_refused(place: Place, tmp_path: Path, syncs: int, kinds: set[str]) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(DIES)
    path = os.pathsep.join([str(site), str(TRAIN.parents[1])])
    done = subprocess.run(
        [sys.executable, str(TRAIN), *SMOKE, f"outputs_dir={place.outputs}"], cwd=place.root / "here",
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, "SYNCS": str(syncs)},
    )  # fmt: skip
    assert_refused(done.stderr, done.returncode)
    assert complete_kinds(place.outputs) == kinds
    assert place.finish() == 0, place.said()
    assert complete_kinds(place.outputs) == set(KINDS)


def test_read_only_outputs_are_refused_before_any_work(small_disk: Path, place: Place) -> None:
    remounted(small_disk, "ro")
    place.outputs.symlink_to(small_disk)
    began = time.monotonic()
    status = place.finish()
    assert_refused(place.said(), status)
    assert "Read-only" in place.said()
    assert time.monotonic() - began < 60


# --- Services ---------------------------------------------------------------------------------------------------------


def test_killed_wandb_service_is_reported_and_stops_nothing(place: Place) -> None:
    place.arguments = [*SMOKE, "tracking=wandb_offline", "training.epochs=8", "training.max_steps=120"]
    pid = place.start()
    end = time.monotonic() + 300
    while not any(len(p.read_text().splitlines()) > 3 for p in place.outputs.glob("runs/*/metrics.jsonl")):
        assert time.monotonic() < end, place.said()
        time.sleep(0.01)
    services = psutil.Process(pid).children(recursive=True)
    assert services, "W&B runs in a process of its own"
    for service in services:
        service.send_signal(signal.SIGKILL)
    assert place.server.ended(300) == 0, place.said()
    assert place.said().count("W&B stopped working") == 1 and "Traceback" not in place.said()
    (training,) = place.outputs.glob("runs/*/model/training.json")
    assert "rows were not mirrored" in json.loads(training.read_text())["tracking"]
    (summary,) = place.outputs.glob("runs/*/summary.json")
    console = " ".join(place.said().split())  # the table wraps its lines
    assert "rows were not mirrored" in summary.read_text() and "rows were not mirrored" in console


def test_failing_codecarbon_is_reported_and_stops_nothing(tmp_path: Path, place: Place) -> None:
    broken = tmp_path / "site" / "codecarbon"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('no power sensor')\n")
    path = os.pathsep.join([str(broken.parent), str(TRAIN.parents[1])])
    words = [word for word in SMOKE if word != "emissions=off"]
    done = subprocess.run(
        [sys.executable, str(TRAIN), *words, f"outputs_dir={place.outputs}"], cwd=place.root / "here",
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    console = done.stdout + done.stderr
    assert "no power sensor" in console and "Traceback" not in console
    (emissions,) = place.outputs.glob("runs/*/model/emissions.json")
    assert json.loads(emissions.read_text())["error"] == "OSError: no power sensor"
    (card,) = place.outputs.glob("runs/*/README.md")
    assert "no power sensor" in card.read_text()
