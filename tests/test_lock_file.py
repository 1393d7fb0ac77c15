"""The lock file: large files remembered, and whatever it was not written as refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline.core.errors import ArtifactError
from pipeline.hub.lock_file import LOCK, REMEMBER_FROM_BYTES, LockFile


def test_a_large_file_is_hashed_again_only_when_it_changes(tmp_path: Path) -> None:
    weights, lock_file = tmp_path / "model.safetensors", LockFile(tmp_path / LOCK)
    weights.write_bytes(b"a" * REMEMBER_FROM_BYTES)
    first = lock_file.digest(weights)
    remembered = json.loads(lock_file.path.read_text())["hashed"][str(weights)]
    assert remembered[-1] == first
    lock_file.put("hashed", str(weights), [*remembered[:-1], "from memory"])
    assert lock_file.digest(weights) == "from memory"
    os.utime(weights, ns=(1, 1))
    assert lock_file.digest(weights) == first
    written = lock_file.path.read_text()
    for altered in (written.replace(first[:8], first[7::-1]), written.replace('"seal"', '"sea1"'), "[]", "{"):
        lock_file.path.write_text(altered)
        with pytest.raises(ArtifactError, match=r"hub\.lock\.json must be .* Delete it"):
            lock_file.digest(weights)
    of_earlier = [weights.stat().st_size, 1, "of an earlier version, which knew no more"]
    lock_file.path.write_text(json.dumps({"hashed": {str(weights): of_earlier}}))
    assert lock_file.digest(weights) == first


@pytest.mark.parametrize("in_place", [True, False])
def test_a_large_file_of_the_same_size_and_time_is_another_one(tmp_path: Path, in_place: bool) -> None:
    weights, other, lock_file = tmp_path / "a.bin", tmp_path / "b.bin", LockFile(tmp_path / LOCK)
    weights.write_bytes(b"a" * REMEMBER_FROM_BYTES)
    before, was = lock_file.digest(weights), weights.stat()
    other.write_bytes(b"b" * REMEMBER_FROM_BYTES)
    if in_place:
        shutil.copyfile(other, weights)
    else:
        other.rename(weights)
    os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert lock_file.digest(weights) == hashlib.sha256(b"b" * REMEMBER_FROM_BYTES).hexdigest() != before


def test_files_that_are_gone_or_other_than_expected_are_named(tmp_path: Path) -> None:
    lock_file = LockFile(tmp_path / LOCK)
    for name in ("same", "unknown", "longer", "altered"):
        (tmp_path / name).write_bytes(b"abc")
    known = lock_file.digest(tmp_path / "same")
    expected = {
        "same": {"size": 3, "sha256": known},
        "unknown": {"size": 3, "sha256": None},
        "longer": {"size": 2, "sha256": known},
        "altered": {"size": 3, "sha256": known[::-1]},
        "gone": {"size": 3, "sha256": known},
    }
    assert lock_file.differing(tmp_path, expected) == ["longer", "altered", "gone"]
