"""Settings and fixtures of all tests: no hub, few threads, and the shared data where it lies beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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
