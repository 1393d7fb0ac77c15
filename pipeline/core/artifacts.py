"""Folders that are complete or absent: written beside, synced, renamed, their manifest last.

Knows nothing of what a stage means; `stages` decides names and contents.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core import atomic, upkeep
from pipeline.core.errors import SIZE_LIMIT, ArtifactError, PipelineError, ResourceError, first_line, must
from pipeline.core.fingerprint import canonical_json, file_digest, text_digest

MANIFEST = "manifest.json"
"""A folder is complete when this file is in it: it is written last and names every other file."""

HELD = ".held"
"""In a work folder until it is complete: one that lacks it was removed, and perhaps made again by a later write."""

LEAST_FREE = 2**18
"""Bytes below which a disk counts as full, when a write to it has failed."""


def files(folder: Path) -> list[Path]:
    """Every file below `folder` but its manifest, sorted by path."""
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


def is_sealed(found: object) -> bool:
    """Whether it is what `sealed` made; never an error, whatever JSON it is."""
    try:
        return isinstance(found, dict) and "seal" in found and found["seal"] == sealed(found)["seal"]
    except (TypeError, ValueError, RecursionError):  # numbers, texts or a depth that nothing of ours has
        return False


@contextlib.contextmanager
def publish(
    folder: Path, manifest: Mapping[str, Any], closing: Callable[[], Mapping[str, Any]] = dict
) -> Iterator[Path]:
    """Yield a work folder, empty but for `HELD`, beside `folder`; on leaving without error make it `folder`, complete.

    Every file is synced, the manifest (`manifest` plus `files`) is written last, then the work folder is renamed
    over whatever incomplete folder stood there. On an error or a signal the work folder is removed and the old folder
    restored, unless the new one is already in place. `manifest` is read on leaving, so the block may fill it; `closing`
    is asked when every file is synced and hashed.
    """
    atomic.make_folder(folder.parent)
    atomic.remove_abandoned(folder, ours=True)
    work = folder.parent / f".{folder.name}.{os.getpid()}{atomic.PARTIAL}"
    replaced = folder.parent / f".{folder.name}.replaced-{os.getpid()}{atomic.PARTIAL}"
    if work.exists():
        shutil.rmtree(work)
    held = False
    try:
        work.mkdir()
        (work / HELD).touch()
        held = True
        yield work
        (work / HELD).unlink()
        held = False
        for path in files(work):
            with path.open("rb") as stream:
                atomic.sync(stream.fileno())
        described = describe(work)
        atomic.write_json(work / MANIFEST, sealed({**manifest, **closing(), "files": described}))
        for path in (p for p in work.rglob("*") if p.is_dir()):
            atomic.sync_folder(path)
        atomic.sync_folder(work)
        if folder.exists():
            _put_aside(folder, replaced)
            os.rename(work, folder)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.rename(work, folder)
        atomic.sync_folder(folder.parent)
    except BaseException as error:
        atomic.put_back(replaced, folder)  # first of all: a second signal may come
        foreign = isinstance(error, Exception) and not isinstance(error, PipelineError)
        limited = foreign and _at_limit(error, work)
        removed = foreign and held and not (work / HELD).exists()
        full = foreign and (_says_full(error) or _is_full(folder.parent))
        shutil.rmtree(work, ignore_errors=True)
        if limited:
            remedy = "Raise the limit and run again: everything finished is kept."
            raise ResourceError(
                must(f"a file of {folder}", f"be within {SIZE_LIMIT}", "a larger one", remedy)
            ) from error
        if removed:
            remedy = "Run the same command again: everything finished is kept."
            raise ResourceError(must(f"the work folder of {folder}", "stay", "one that was removed", remedy)) from error
        if full:  # libraries that write have errors of their own for it
            remedy = "Free space, or pass outputs_dir=<another disk>; run again: everything finished is kept."
            raise ResourceError(must(f"the disk of {folder}", "hold it", "a full disk", remedy)) from error
        raise


def _put_aside(folder: Path, replaced: Path) -> None:
    """Rename a folder that is to be replaced; remove one of a container's image, which overlayfs does not rename."""
    try:
        os.rename(folder, replaced)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(folder)


def _says_full(error: BaseException) -> bool:
    """Whether an error is the system's for want of room, in whatever class a library wraps its words."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


def _at_limit(error: BaseException, work: Path) -> bool:
    """Whether a file grew to the process's limit; torch does not say why a write failed."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    return os.strerror(errno.EFBIG) in str(error) or any(path.stat().st_size >= limit for path in files(work))


def _is_full(folder: Path) -> bool:
    """Whether less than one file of ours fits on the folder's disk."""
    try:
        return shutil.disk_usage(folder).free < LEAST_FREE
    except OSError:
        return False


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete folder, None where there is none.

    Raises:
        ArtifactError: when a manifest is there but is not one of ours, or was altered.
    """
    found = _manifest(folder)
    if isinstance(found, str):
        remedy = f"Delete {folder} and run again."
        raise ArtifactError(must(str(folder / MANIFEST), "be as it was written", found, remedy))
    return found


def _manifest(folder: Path) -> dict[str, Any] | str | None:
    """The manifest, None where there is none, or what stands in its place."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        return f"no readable JSON ({first_line(error)})"
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return "another JSON file"
    return manifest if is_sealed(manifest) else "an altered one"


@upkeep.spent("verify")
def problems(folder: Path) -> list[str]:
    """What is wrong with a folder against its manifest, one sentence each; empty when it verifies."""
    manifest = _manifest(folder)
    if isinstance(manifest, str):
        return [f"{folder / MANIFEST} is not as it was written but {manifest}"]
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
