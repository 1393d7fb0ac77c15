"""What hashing, syncing and verifying cost is counted once, by kind, and written beside what a stage made."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipeline.core import artifacts, upkeep
from pipeline.core.fingerprint import file_digest, text_digest
from pipeline.core.upkeep import spent


def test_a_block_within_another_counts_once_and_for_the_outer_kind() -> None:
    before = upkeep.seconds()
    with spent("verify"), spent("hash"):
        time.sleep(0.05)
    with spent("sync"):
        time.sleep(0.02)
    found = upkeep.seconds(before)
    assert found["hash"] == 0.0
    assert 0.05 <= found["verify"] < 0.06 + 0.5
    assert 0.02 <= found["sync"] < found["verify"] + 0.5


def test_an_error_ends_the_count() -> None:
    before = upkeep.seconds()
    with pytest.raises(ValueError, match="no"), spent("hash"):
        raise ValueError("no")
    spent_once = upkeep.seconds(before)["hash"]
    time.sleep(0.01)
    assert 0 < upkeep.seconds(before)["hash"] == spent_once


def test_digests_fsync_and_verification_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(0.02)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    (tmp_path / "big").write_bytes(bytes(2**20))
    before = upkeep.seconds()
    file_digest(tmp_path / "big")
    only_file = upkeep.seconds(before)
    text_digest(["a" * 2**20])
    both = upkeep.seconds(before)
    assert 0 < only_file["hash"] < both["hash"]
    assert both["sync"] == both["verify"] == 0.0
    with artifacts.publish(tmp_path / "x", {}) as work:
        (work / "a").write_bytes(b"a")
    # The file, the manifest and its folder, the work folder, and the name of the published one.
    assert 0.1 <= upkeep.seconds(before)["sync"] < 0.1 + 0.5
    assert artifacts.is_complete(tmp_path / "x")
    assert upkeep.seconds(before)["verify"] > 0


def test_the_closing_facts_of_a_manifest_are_asked_when_its_files_are_hashed(tmp_path: Path) -> None:
    before = upkeep.seconds()
    with artifacts.publish(tmp_path / "x", {"a": 1}, lambda: {"upkeep_seconds": upkeep.seconds(before)}) as work:
        (work / "big").write_bytes(bytes(2**20))
    assert artifacts.is_complete(tmp_path / "x")
    manifest = artifacts.manifest_of(tmp_path / "x") or {}
    assert manifest["a"] == 1
    assert manifest["upkeep_seconds"]["hash"] > 0
    assert manifest["upkeep_seconds"]["sync"] > 0
