"""Folders and files that are complete or absent: written beside, synced, renamed, manifest last.

Knows nothing of what a stage means; `stages` decides names and contents.
"""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core import upkeep
from pipeline.core.errors import ArtifactError, PipelineError, ResourceError, must
from pipeline.core.fingerprint import canonical_json, file_digest, text_digest

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""A folder is complete when this file is in it: it is written last and names every other file."""

PARTIAL = ".partial"

LEAST_FREE = 2**18
"""Bytes below which a disk counts as full, when a write to it has failed."""


@upkeep.spent("sync")
def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries to disk, so that a rename in it survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@upkeep.spent("sync")
def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing, each name synced: a rename in it is no safer than they."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # its parent is there, but takes none: /proc
        remedy = "Pass outputs_dir=<another folder>."
        raise ResourceError(
            must(str(folder), "be a folder that can be made", "a refusal of the system", remedy)
        ) from None
    for path in reversed(missing):
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` with `data`, or leave it as it was: temporary file, fsync, rename, fsync of the folder."""
    make_folder(path.parent)
    _remove_abandoned(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}{PARTIAL}"
    try:  # it is made in here: a signal right afterwards would leave it
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            _sync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text, UTF-8."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def mend(path: Path, expected: bytes) -> None:
    """Write a file unless it holds these bytes: a copy for people, of a file that a manifest vouches for."""
    if not path.is_file() or path.read_bytes() != expected:
        write_bytes(path, expected)


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` for JSON a person can read; non-finite numbers are refused rather than written as NaN."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        ArtifactError: when it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} must exist, got nothing there. Run the stage that writes it again.") from None
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} must be readable JSON, got {error}. Delete it and run the stage again.") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `<path>.lock` while the block runs; a second process waits.

    The lock is the kernel's (`flock`), so one held by a killed process is free at once. The empty file stays:
    deleting it would let two processes lock two different files of one name.
    """
    make_folder(path.parent)
    with (path.parent / f".{path.name}.lock").open("a") as stream:  # unlike "w", leaves the file as it is
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that is writing %s", path)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of every file below `folder`, by relative path, the manifest left out."""
    return {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in files(folder)
    }


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with `seal`, the sha256 of the rest, so that a manifest vouches for itself too."""
    rest = {name: value for name, value in manifest.items() if name != "seal"}
    return {**rest, "seal": text_digest([canonical_json(rest)])}


@contextlib.contextmanager
def publish(
    folder: Path, manifest: Mapping[str, Any], closing: Callable[[], Mapping[str, Any]] = dict
) -> Iterator[Path]:
    """Yield an empty work folder beside `folder`; on leaving without error make it `folder`, complete.

    Every file is synced, the manifest (`manifest` plus `files`) is written last, then the work folder is renamed
    over whatever incomplete folder stood there. On an error, a signal's too, the work folder is removed, and what stood
    there stands there, but after the last rename the new one. `manifest` is read on leaving, so the block may fill it;
    `closing` is asked when every file is synced and hashed.
    """
    make_folder(folder.parent)
    _remove_abandoned(folder, ours=True)
    work = folder.parent / f".{folder.name}.{os.getpid()}{PARTIAL}"
    replaced = folder.parent / f".{folder.name}.replaced-{os.getpid()}{PARTIAL}"
    if work.exists():
        shutil.rmtree(work)
    try:
        work.mkdir()
        yield work
        for path in files(work):
            with path.open("rb") as stream:
                _sync(stream.fileno())
        described = describe(work)
        write_json(work / MANIFEST, sealed({**manifest, **closing(), "files": described}))
        for path in (p for p in work.rglob("*") if p.is_dir()):
            sync_folder(path)
        sync_folder(work)
        if folder.exists():
            os.rename(folder, replaced)
            os.rename(work, folder)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.rename(work, folder)
        sync_folder(folder.parent)
    except BaseException as error:
        _put_back(replaced, folder)  # first of all: a second signal may come
        foreign = isinstance(error, Exception) and not isinstance(error, PipelineError)
        full = foreign and (_says_full(error) or _is_full(folder.parent))
        shutil.rmtree(work, ignore_errors=True)
        if full:  # libraries that write have errors of their own for it
            remedy = "Free space, or pass outputs_dir=<another disk>; run again: everything finished is kept."
            raise ResourceError(must(f"the disk of {folder}", "hold it", "a full disk", remedy)) from error
        raise


def _put_back(replaced: Path, folder: Path) -> None:
    """Give a folder that was to be replaced its place again, or remove it where one stands there."""
    with contextlib.suppress(OSError):
        if replaced.exists() and not folder.exists():
            os.rename(replaced, folder)
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)


def _says_full(error: BaseException) -> bool:
    """Whether an error is the system's for want of room, in whatever class a library wraps its words."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def _is_full(folder: Path) -> bool:
    """Whether less than one file of ours fits on the folder's disk."""
    try:
        return shutil.disk_usage(folder).free < LEAST_FREE
    except OSError:
        return False


def _remove_abandoned(path: Path, *, ours: bool = False) -> None:
    """Remove what killed processes left of writing `path`: their work folders, temporary files and links.

    A folder that one was about to replace is put back where it left none.

    `ours` counts this process's number as a killed one's: numbers come again, in containers often at once.
    """
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        last = stale.name.removesuffix(PARTIAL).rsplit(".", 1)[-1]
        owner = last.removeprefix("replaced-")
        if owner.isdigit() and Path(f"/proc/{owner}").exists() and not (ours and int(owner) == os.getpid()):
            continue
        if last != owner:
            _put_back(stale, path)
        elif stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete folder, None where there is none.

    Raises:
        ArtifactError: when a manifest is there but is not one of ours, or was altered.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f"{path} must be a manifest, got another JSON file. Delete {folder} and run again.")
    if manifest.get("seal") != sealed(manifest)["seal"]:
        raise ArtifactError(f"{path} must be as it was written, got an altered one. Delete {folder} and run again.")
    return manifest


@upkeep.spent("verify")
def problems(folder: Path) -> list[str]:
    """What is wrong with a folder against its manifest, one sentence each; empty when it verifies."""
    try:
        manifest = manifest_of(folder)
    except ArtifactError as error:
        return [str(error)]
    if manifest is None:
        return [f"{folder} has no {MANIFEST}: it was never completed"]
    found = []
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path} is missing")
        elif path.stat().st_size != expected["size"]:
            found.append(f"{path} has {path.stat().st_size} bytes, its manifest says {expected['size']}")
        elif file_digest(path) != expected["sha256"]:
            found.append(f"{path} was altered: its sha256 differs from its manifest's")
    return found


def is_complete(folder: Path) -> bool:
    """Whether the folder has a manifest and every file it names verifies."""
    return (folder / MANIFEST).is_file() and not problems(folder)


def point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, relative, swapped in one rename."""
    make_folder(link.parent)
    _remove_abandoned(link)
    temporary = link.parent / f".{link.name}.{os.getpid()}{PARTIAL}"
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(os.path.relpath(target, link.parent))
        os.replace(temporary, link)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(link.parent)
