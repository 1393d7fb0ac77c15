"""Folders are complete or absent, whatever happens in between: errors, kills, damage."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import artifacts, atomic
from pipeline.core.artifacts import MANIFEST, is_complete, manifest_of, problems, publish
from pipeline.core.errors import ResourceError

ALTERED = "manifest.json is not as it was written: it is an altered one"


def make(folder: Path) -> Path:
    with publish(folder, {"artifact": "test"}) as work:
        (work / "a.txt").write_bytes(b"alpha")
        (work / "sub").mkdir()
        (work / "sub" / "b.bin").write_bytes(b"")
    return folder


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_published_folder_names_every_file(tmp_path: Path) -> None:
    folder = make(tmp_path / "new" / "thing")
    manifest = manifest_of(folder)
    assert manifest is not None and len(manifest.pop("seal")) == 64
    assert manifest == {
        "artifact": "test",
        "files": {
            "a.txt": {"size": 5, "sha256": hashlib.sha256(b"alpha").hexdigest()},
            "sub/b.bin": {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()},
        },
    }
    assert is_complete(folder) and problems(folder) == []
    assert names(tmp_path / "new") == ["thing"]


def test_the_manifest_may_be_filled_inside_the_block(tmp_path: Path) -> None:
    facts: dict[str, object] = {}
    with publish(tmp_path / "x", facts):
        facts["rows"] = 3
    manifest = manifest_of(tmp_path / "x")
    assert manifest is not None and manifest["rows"] == 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), publish(tmp_path / "x", {}) as work:
        (work / "half").write_text("half")
        raise error
    assert names(tmp_path) == []


def test_a_signal_right_after_making_the_work_folder_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def signalled(self: Path, *arguments: Any, **options: Any) -> None:
        mkdir(self, *arguments, **options)
        if self.name.endswith(atomic.PARTIAL):
            assert names(tmp_path) == [self.name]
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", signalled)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("renamed", "stands"), [(1, "before"), (2, "after")])
def test_a_signal_between_renames_leaves_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int, stands: str
) -> None:
    folder, renames, rename = tmp_path / "x", [0], os.rename
    with publish(folder, {"of": "before"}):
        pass

    def signalled(source: Path, target: Path) -> None:
        rename(source, target)
        renames[0] += 1
        if renames[0] == renamed:
            raise KeyboardInterrupt

    monkeypatch.setattr(artifacts.os, "rename", signalled)
    with pytest.raises(KeyboardInterrupt), publish(folder, {"of": "after"}):
        pass
    manifest = manifest_of(folder)
    assert names(tmp_path) == ["x"] and is_complete(folder)
    assert manifest is not None and manifest["of"] == stands


def test_a_folder_that_a_killed_process_was_about_to_replace_is_put_back(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    folder.rename(tmp_path / f".x.replaced-999999999{atomic.PARTIAL}")
    (tmp_path / f".x.999999999{atomic.PARTIAL}").mkdir()
    with pytest.raises(ValueError, match="not this time"), publish(folder, {}):
        raise ValueError("not this time")
    assert names(tmp_path) == ["x"] and is_complete(folder)


def test_an_error_of_the_second_rename_is_said_and_leaves_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = make(tmp_path / "x"), os.rename

    def failing(source: Path, target: Path) -> None:
        if target == folder and "replaced" not in source.name:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(artifacts.os, "rename", failing)
    with pytest.raises(ResourceError, match="full disk"):
        make(folder)
    assert names(tmp_path) == ["x"] and is_complete(folder)


@pytest.mark.parametrize("then", ["writes on", "fails", "leaves"])
def test_a_work_folder_that_is_removed_meanwhile_is_never_published(tmp_path: Path, then: str) -> None:
    refused = pytest.raises(
        ResourceError, match=r"x must stay while it is written, got one that was removed\. Run the same command again"
    )
    with refused, publish(tmp_path / "x", {}) as work:
        (work / "first").write_text("first")
        shutil.rmtree(work)
        if then == "writes on":
            atomic.write_json(work / "second.json", 2)
        elif then == "fails":
            (work / "second").write_text("second")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_renamed_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As overlayfs has it of a folder in a container's image."""
    folder, rename = make(tmp_path / "x"), os.rename

    def refusing(source: Path, target: Path) -> None:
        if source == folder:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))
        rename(source, target)

    monkeypatch.setattr(artifacts.os, "rename", refusing)
    with publish(folder, {}) as work:
        (work / "other").write_text("new")
    assert names(folder) == [MANIFEST, "other"] and is_complete(folder) and names(tmp_path) == ["x"]


def test_an_error_inside_leaves_what_stood_there(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    with pytest.raises(ValueError, match="no"), publish(folder, {}):
        raise ValueError("no")
    assert is_complete(folder) and (folder / "a.txt").read_bytes() == b"alpha"


def test_a_new_version_replaces_the_whole_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    with publish(folder, {}) as work:
        (work / "other").write_text("new")
    assert names(folder) == [MANIFEST, "other"] and is_complete(folder)
    assert names(tmp_path) == ["x"]


def run_until(root: Path, folder: Path, code: str) -> None:
    """Publish in another process, which runs `code` before or in place of leaving, and kills itself."""
    source = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom pipeline.core import artifacts\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{code}\n"
        "with artifacts.publish(Path(sys.argv[1]), {}) as work:\n"
        "    (work / 'weights').write_bytes(b'w' * 1000)\n    inside()\n"
    )
    done = subprocess.run([sys.executable, "-c", source, str(folder)], cwd=root, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "inside = die",
        "inside = lambda: setattr(artifacts.atomic, 'write_json', die)",
        "inside = lambda: setattr(artifacts.os, 'rename', die)",
    ],
    ids=["while writing", "before the manifest", "before the rename"],
)
def test_a_killed_process_leaves_no_folder_and_the_next_one_cleans_up(root: Path, tmp_path: Path, code: str) -> None:
    folder = tmp_path / "x"
    run_until(root, folder, code)
    (left,) = names(tmp_path)
    assert left.startswith(".x.") and left.endswith(atomic.PARTIAL)
    assert not is_complete(folder) and not folder.exists()
    make(folder)
    assert names(tmp_path) == ["x"] and is_complete(folder)


def test_the_work_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    living = tmp_path / f".x.{os.getppid()}{atomic.PARTIAL}"
    living.mkdir()
    other = tmp_path / f".y.999999999{atomic.PARTIAL}"
    other.mkdir()
    make(tmp_path / "x")
    assert living.is_dir() and other.is_dir(), "neither a living process's nor another folder's"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "a.txt").unlink(), "a.txt is missing"),
        (lambda f: (f / "a.txt").write_bytes(b"alph"), "a.txt has 4 bytes, its manifest says 5"),
        (lambda f: (f / "a.txt").write_bytes(b"alphA"), "a.txt was altered"),
        (lambda f: (f / "sub" / "b.bin").unlink(), "sub/b.bin is missing"),
        (lambda f: (f / MANIFEST).unlink(), "was never completed"),
        (lambda f: (f / MANIFEST).write_text("{"), "as it was written: it is unreadable JSON ("),
        (lambda f: (f / MANIFEST).write_text("[]"), "as it was written: it is another JSON file"),
        (
            lambda f: (f / MANIFEST).write_text('{"files": {"a.txt": 3}}'),
            ALTERED,
        ),
        (
            lambda f: rewrite(f / MANIFEST, '"artifact": "test"', '"artifact": "tesu"'),
            ALTERED,
        ),
        (
            lambda f: rewrite(f / MANIFEST, '"seal"', '"reel"'),
            ALTERED,
        ),
        (lambda f: rewrite(f / MANIFEST, '"artifact": "test"', '"artifact": NaN'), ALTERED),
        (lambda f: (f / MANIFEST).write_text("[" * 100_000), "as it was written: it is unreadable JSON ("),
        (
            lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"),
            "as it was written: it is unreadable JSON (",
        ),
    ],
)
def test_every_damage_is_named(tmp_path: Path, damage: object, said: str) -> None:
    folder = make(tmp_path / "x")
    damage(folder)  # type: ignore[operator]
    assert not is_complete(folder)
    (problem,) = problems(folder)
    assert said in problem and str(folder) in problem
    assert not problem.endswith(".") and ". " not in problem, "no remedy: whoever asks has one of his own"


@pytest.mark.parametrize("writer", ["python", "torch"])
def test_a_file_beyond_the_process_s_limit_is_no_full_disk(root: Path, tmp_path: Path, writer: str) -> None:
    code = f"""
import resource, sys
from pathlib import Path
import torch
from pipeline.core.artifacts import publish
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
with publish(Path(sys.argv[1]), {{}}) as work:
    if {writer!r} == "torch":
        torch.save(torch.rand(2**16), work / "big")
    else:
        (work / "big").write_bytes(bytes(2**17))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")], cwd=root, capture_output=True, text=True, timeout=100
    )
    said = f"a file of {tmp_path / 'x'} must be within the limit on a file's size (ulimit -f), got a larger one. Raise"
    assert said in done.stderr and "full disk" not in done.stderr
    assert names(tmp_path) == []


def test_an_absent_folder_is_not_complete(tmp_path: Path) -> None:
    assert not is_complete(tmp_path / "none") and len(problems(tmp_path / "none")) == 1
    assert manifest_of(tmp_path / "none") is None
