"""Atomic writes of files and links (temporary file, sync, rename), and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.core import upkeep
from pipeline.core.errors import ArtifactError, ResourceError, must

log = logging.getLogger(__name__)

PARTIAL = ".partial"
"""Suffix of every file, folder and link that is still being written."""


@upkeep.spent("sync")
def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries to disk, so that a rename in it survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot sync folders: FUSE, CIFS
            raise
    finally:
        os.close(descriptor)


@upkeep.spent("sync")
def sync(descriptor: int) -> None:
    os.fsync(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, each synced: losing a parent would lose a later rename below it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # the parent exists but takes no folder, as in /proc
        remedy = "Pass outputs_dir=<another folder>."
        raise ResourceError(
            must(str(folder), "be a folder that can be made", "a refusal by the system", remedy)
        ) from None
    for path in reversed(missing):
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` with `data`, or leave it as it was: temporary file, fsync, rename, fsync of the folder."""
    make_folder(path.parent)
    remove_abandoned(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}{PARTIAL}"
    try:  # the file is opened inside: a signal right after opening would leave it behind
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            sync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_if_changed(path: Path, expected: bytes) -> None:
    """Write a file unless it holds these bytes: a copy for people of a file that a manifest verifies."""
    if not path.is_file() or path.read_bytes() != expected:
        write_bytes(path, expected)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, as `write_bytes` does; non-finite numbers are refused rather than written as NaN."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that the pipeline wrote.

    Raises:
        ArtifactError: when it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(must(str(path), "exist", "nothing there", "Run the stage that writes it again.")) from None
    except (ValueError, OSError, RecursionError) as error:
        raise ArtifactError(must(str(path), "be readable JSON", error, "Delete it and run the stage again.")) from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `.<name>.lock` beside the path while the block runs; a second process waits.

    The lock is the kernel's (`flock`), so it is released at once when its process is killed. The empty file stays:
    deleting it would let two processes lock two different files of one name.

    Raises:
        ResourceError: on a file system without such locks.
    """
    make_folder(path.parent)
    with (path.parent / f".{path.name}.lock").open("a") as stream:  # unlike "w", leaves the file as it is
        try:
            _lock(stream, path)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            remedy = "Pass outputs_dir=<a folder on another disk>, or for the hub's cache set HF_HOME."
            rule = "lie on a file system with locks (flock)"
            raise ResourceError(must(str(path.parent), rule, error.strerror, remedy)) from None
        yield


def _lock(stream: TextIO, path: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("waiting for another process that is writing %s", path)
        fcntl.flock(stream, fcntl.LOCK_EX)


def point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, relative, swapped in one rename."""
    temporary = link.parent / f".{link.name}.{os.getpid()}{PARTIAL}"
    with locked(link):  # processes in two containers may have the same id
        remove_abandoned(link)
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(target, link.parent))
            os.replace(temporary, link)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(link.parent)


def require_link(link: Path) -> None:
    """Refuse a file or folder where `point` makes a link: it would be read as another run, or be lost.

    Raises:
        ArtifactError: with the remedies for starting a run and for reading one.
    """
    if link.exists() and not link.is_symlink():
        remedy = "Rename it (`cp -rL` makes such copies): the next run makes the link, and run=<folder> chooses a run."
        raise ArtifactError(must(str(link), "be a link", "a folder" if link.is_dir() else "a file", remedy))


def remove_abandoned(path: Path, *, ours: bool = False) -> None:
    """Remove what killed processes left while writing `path`: work folders, temporary files and links.

    A folder that a process was replacing is put back if no new folder is in its place. With `ours`, files under this
    process's own id count as abandoned too: ids are reused, in containers often at once.
    """
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        last = stale.name.removesuffix(PARTIAL).rsplit(".", 1)[-1]
        owner = last.removeprefix("replaced-")
        if owner.isdigit() and Path(f"/proc/{owner}").exists() and not (ours and int(owner) == os.getpid()):
            continue
        if last != owner:
            put_back(stale, path)
        elif stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


def put_back(replaced: Path, folder: Path) -> None:
    """Move a folder that was to be replaced back to its place, or remove it if a folder is already there."""
    with contextlib.suppress(OSError):
        if replaced.exists() and not folder.exists():
            os.rename(replaced, folder)
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
