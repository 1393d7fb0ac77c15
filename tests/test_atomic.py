"""Files and links are whole or as they were, whatever happens in between: errors, kills, two processes at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import atomic
from pipeline.core.atomic import locked, point
from pipeline.core.errors import ArtifactError, ResourceError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_unwritable_parent_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"^/proc/x/y must be a folder that can be made, .* Pass outputs_dir="):
        atomic.make_folder(Path("/proc/x/y"))


@pytest.mark.parametrize("making", ["open", "symlink_to"], ids=["file", "link"])
def test_interrupt_right_after_creation_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, making: str
) -> None:
    make = getattr(Path, making)

    def signalled(self: Path, *arguments: object, **options: object) -> object:
        found = make(self, *arguments, **options)
        if self.name.endswith(atomic.PARTIAL):
            assert self.name in names(tmp_path)
            raise KeyboardInterrupt
        return found

    work = {
        "open": lambda: atomic.write_bytes(tmp_path / "x", b"x"),
        "symlink_to": lambda: point(tmp_path / "x", tmp_path),
    }
    monkeypatch.setattr(Path, making, signalled)
    with pytest.raises(KeyboardInterrupt):
        work[making]()
    assert [name for name in names(tmp_path) if name != ".x.lock"] == []


HOLD = """
import logging, sys
from pathlib import Path
from pipeline.core.atomic import locked
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
"""Holds the lock until its standard input ends."""


@pytest.mark.parametrize("killed", [False, True], ids=["released", "killed"])
def test_second_process_waits_until_the_lock_is_released(root: Path, tmp_path: Path, killed: bool) -> None:
    target = tmp_path / "x"
    words = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None and first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with subprocess.Popen(words, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == f"waiting for another process that is writing {target}\n"
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(0.2)
            if killed:
                first.kill()
            else:
                first.stdin.close()
            assert second.wait(20) == 0 and second.stdout.read() == "held\n"
    with locked(target):
        pass
    assert not target.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refusing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.fcntl, "flock", refusing)
    refused = pytest.raises(ResourceError, match=r"^/.* must lie on a file system with locks \(flock\), got ")
    with refused, locked(tmp_path / "x"):
        pass


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.EIO], ids=errno.errorcode.get)
def test_folder_fsync_failure_is_ignored_only_if_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refusing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", refusing)
    with pytest.raises(OSError, match="Input/output") if number == errno.EIO else contextlib.nullcontext():
        atomic.write_bytes(tmp_path / "x", b"x")
    assert (tmp_path / "x").read_bytes() == b"x"


def test_two_processes_with_equal_pids_do_not_collide(root: Path, tmp_path: Path) -> None:
    """Two containers over one disk: both say that they are process 7."""
    code = """
import os, sys
from pathlib import Path
from pipeline.core import atomic
os.getpid = lambda: 7
for _ in range(300):
    atomic.point(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    words = [sys.executable, "-c", code, str(tmp_path / "latest")]
    both = [subprocess.Popen([*words, f"/{name}"], cwd=root, stderr=subprocess.PIPE, text=True) for name in "ab"]
    assert [(process.communicate()[1], process.returncode) for process in both] == [("", 0)] * 2
    assert names(tmp_path) == [".latest.lock", "latest"]


def test_link_is_relative_and_can_be_replaced(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        point(tmp_path / "latest", tmp_path / "runs" / name)
        assert os.readlink(tmp_path / "latest") == f"runs/{name}"
    assert names(tmp_path) == [".latest.lock", "latest", "runs"]
    (tmp_path.parent / f"{tmp_path.name}-moved").symlink_to(tmp_path)
    assert (tmp_path.parent / f"{tmp_path.name}-moved" / "latest").resolve() == tmp_path.resolve() / "runs" / "two"


def test_file_or_folder_in_place_of_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("gone")
    for name in ("absent", "dangling"):
        atomic.require_link(tmp_path / name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("folder", "file"):
        with pytest.raises(ArtifactError, match=rf"{name} must be a link, got a {name}\. Rename it .*run=<folder>"):
            atomic.require_link(tmp_path / name)


def test_nan_is_not_written_as_json(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "facts.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="Out of range float"):
        atomic.write_json(tmp_path / "facts.json", {"loss": float("nan")})
    assert atomic.read_json(tmp_path / "facts.json") == {"loss": 1.0} and names(tmp_path) == ["facts.json"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "facts.json"
    atomic.write_json(path, {"é": [1, None]})
    assert atomic.read_json(path) == {"é": [1, None]}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_json(path, {})
    assert json.loads(path.read_text()) == {"é": [1, None]} and names(path.parent) == ["facts.json"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)], ids=["022", "077"])
def test_files_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        atomic.write_json(tmp_path / "x.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == mode


def test_missing_and_torn_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"must exist, got nothing there"):
        atomic.read_json(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(ArtifactError, match=r"torn\.json must be readable JSON, got .*Delete it"):
        atomic.read_json(tmp_path / "torn.json")


def test_next_write_removes_what_killed_writers_left(tmp_path: Path) -> None:
    for name in (".x.json.ab12.999999999", ".x.json.cd34", ".latest.999999999"):
        (tmp_path / f"{name}{atomic.PARTIAL}").write_text("half")
    running = tmp_path / f".x.json.ef56.{os.getppid()}{atomic.PARTIAL}"
    running.write_text("at work")
    atomic.write_json(tmp_path / "x.json", 1)
    atomic.point(tmp_path / "latest", tmp_path / "x.json")
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", "latest", ".latest.lock", running.name}
