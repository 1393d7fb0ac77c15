"""Settings of all tests (no hub, few threads) and the fixtures that several files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_client import HubUser
from loopback_hub import LoopbackHub

# Set at collection, not in a fixture: before any library reads these variables.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
# Tiny models on many cores spend their time waking threads, and thread counts change the last bits of a sum.
os.environ.setdefault("OMP_NUM_THREADS", "2")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real pairs and collections beside the checkout; skip the test where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared data in {folder.parent.name}/{folder.name} beside the checkout")
    return folder


@pytest.fixture()
def pairs_file(tmp_path: Path) -> Path:
    """Return a JSON-lines file of 150 question/answer rows, `pairs.jsonl`, alone in its folder."""
    from pair_files import pair_rows, write_jsonl

    return write_jsonl(tmp_path / "pairs.jsonl", pair_rows(150))


@pytest.fixture()
def hub_user(tmp_path: Path) -> Iterator[HubUser]:
    """Yield a user with an empty cache, and a loopback hub without repositories that serves during the test."""
    with LoopbackHub().serving() as hub:
        yield HubUser(tmp_path, hub)


@pytest.fixture()
def batches_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give models on the CPU the packed batches of a GPU, for tests in which memory runs out as on a GPU."""
    from pipeline.networks import packed

    monkeypatch.setattr(packed, "runs_in_blocks", lambda model: False)


@pytest.fixture
def simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Show torch a GPU for the duration of a test; yield a `DeviceRecord`, which records what was asked of it."""
    from simulated_gpu import simulation

    with simulation(monkeypatch) as record:
        yield record


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random BERT without a head. Read only."""
    from hub_fixtures import bert_tiny

    return bert_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def _shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_run import run_tiny

    return run_tiny(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def finished_run(_shared_run: Path) -> Iterator[Path]:
    """Yield the folder of a finished tiny run, made once a session. Read only: a test that writes takes `own_run`.

    Its outputs folder, two levels up, holds this run alone.
    """
    from tiny_run import snapshot

    before = snapshot(_shared_run.parents[1])
    yield _shared_run
    assert snapshot(_shared_run.parents[1]) == before, "the finished run is shared: take own_run to write"


@pytest.fixture
def own_run(_shared_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run's folder, in a copy of its outputs folder, for a test that writes."""
    outputs = shutil.copytree(_shared_run.parents[1], tmp_path / "outputs", symlinks=True)
    return outputs / "runs" / _shared_run.name


@pytest.fixture
def own_outputs(own_run: Path) -> Path:
    """Return the outputs folder of `own_run`."""
    return own_run.parents[1]
