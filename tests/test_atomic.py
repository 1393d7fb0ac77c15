"""Files and links are whole or as they were, whatever happens in between: errors, kills, two processes at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core import atomic
from pipeline.core.atomic import locked, point
from pipeline.core.errors import ArtifactError, ResourceError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_the_system_makes_none_in_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"^/proc/x/y must be a folder that can be made, .* Pass outputs_dir="):
        atomic.make_folder(Path("/proc/x/y"))


@pytest.mark.parametrize("making", ["open", "symlink_to"])
def test_a_signal_right_after_making_leaves_nothing(
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
import sys, time
from pathlib import Path
from pipeline.core.atomic import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_process_waits_and_a_dead_one_holds_nothing(root: Path, tmp_path: Path, killed: bool) -> None:
    target = tmp_path / "x"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdin is not None and first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(target)], cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        ) as second:  # fmt: skip
            time.sleep(0.5)
            assert second.poll() is None, "the second waits while the first holds"
            if killed:
                first.kill()
            else:
                first.stdin.close()
            assert second.wait(20) == 0
    with locked(target):
        pass
    assert not target.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refusing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.fcntl, "flock", refusing)
    refused = pytest.raises(ResourceError, match=r"^/.* must lie on a file system with locks \(flock\), got ")
    with refused, locked(tmp_path / "x"):
        pass


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.EIO])
def test_a_folder_goes_unsynced_only_where_its_file_system_syncs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refusing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", refusing)
    with pytest.raises(OSError, match="Input/output") if number == errno.EIO else contextlib.nullcontext():
        atomic.write_bytes(tmp_path / "x", b"x")
    assert (tmp_path / "x").read_bytes() == b"x"


def test_processes_of_one_number_do_not_take_each_others_link(root: Path, tmp_path: Path) -> None:
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


def test_a_link_is_swapped_and_relative(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        point(tmp_path / "latest", tmp_path / "runs" / name)
        assert os.readlink(tmp_path / "latest") == f"runs/{name}"
    assert names(tmp_path) == [".latest.lock", "latest", "runs"]
    (tmp_path.parent / f"{tmp_path.name}-moved").symlink_to(tmp_path)
    assert (tmp_path.parent / f"{tmp_path.name}-moved" / "latest").resolve() == tmp_path.resolve() / "runs" / "two"


def test_what_stands_where_a_link_goes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("gone")
    for name in ("absent", "dangling"):
        atomic.require_link(tmp_path / name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("folder", "file"):
        with pytest.raises(ArtifactError, match=rf"{name} must be a link, got a {name}\. Rename it .*run=<folder>"):
            atomic.require_link(tmp_path / name)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "facts.json"
    atomic.write_json(path, {"é": [1, None]})
    assert atomic.read_json(path) == {"é": [1, None]}
    with pytest.raises(ValueError, match="Out of range float"):
        atomic.write_json(path, {"loss": float("nan")})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_json(path, {})
    assert json.loads(path.read_text()) == {"é": [1, None]} and names(path.parent) == ["facts.json"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_a_file_is_the_processs_to_say(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        atomic.write_json(tmp_path / "x.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == mode


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"must exist, got nothing there"):
        atomic.read_json(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(ArtifactError, match=r"torn\.json must be readable JSON, got .*Delete it"):
        atomic.read_json(tmp_path / "torn.json")


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    for name in (".x.json.ab12.999999999", ".x.json.cd34", ".latest.999999999"):
        (tmp_path / f"{name}{atomic.PARTIAL}").write_text("half")
    living = tmp_path / f".x.json.ef56.{os.getppid()}{atomic.PARTIAL}"
    living.write_text("at work")
    atomic.write_json(tmp_path / "x.json", 1)
    atomic.point(tmp_path / "latest", tmp_path / "x.json")
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", "latest", ".latest.lock", living.name}
