"""Artefact folders that are complete or absent: written under a temporary name, synced, then renamed.

The manifest is written last. This module knows no stages; `stages` decides names and contents.
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
"""File in every unfinished work folder; a folder without it was removed, perhaps recreated by a later write."""

LEAST_FREE = 2**18
"""Free bytes below which a disk counts as full after a failed write."""


def files(folder: Path) -> list[Path]:
    """Return every file below `folder` except its manifest, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size in bytes and sha256 of every file below `folder` except its manifest, by relative path."""
    return {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in files(folder)
    }


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest with `seal`, the sha256 of its other entries, so that an altered manifest is detected."""
    rest = {name: value for name, value in manifest.items() if name != "seal"}
    return {**rest, "seal": text_digest([canonical_json(rest)])}


def is_sealed(found: object) -> bool:
    """Return whether a JSON value is a manifest that `sealed` made; never raise, whatever the value."""
    try:
        return isinstance(found, dict) and "seal" in found and found["seal"] == sealed(found)["seal"]
    except (TypeError, ValueError, RecursionError):  # values or nesting that no manifest has
        return False


@contextlib.contextmanager
def publish(
    folder: Path, manifest: Mapping[str, Any], closing: Callable[[], Mapping[str, Any]] = dict
) -> Iterator[Path]:
    """Yield a work folder beside `folder`, empty except for `HELD`; on success make it `folder`, complete.

    Every file is synced, the manifest (`manifest`, the entries `closing` returns, and `files`) is written last, then
    the work folder replaces any incomplete folder. On an error or a signal the work folder is removed and the old
    folder restored, unless the new one is already in place. `manifest` is read after the block, which may fill it;
    `closing` is called when every file is synced and hashed.
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
        atomic.put_back(replaced, folder)  # first: a second signal may come
        foreign = isinstance(error, Exception) and not isinstance(error, PipelineError)
        limited = foreign and _at_limit(error, work)
        removed = foreign and held and not (work / HELD).exists()
        full = foreign and (_says_full(error) or _is_full(folder.parent))
        shutil.rmtree(work, ignore_errors=True)
        if limited:
            remedy = "Raise the limit and run again: finished work is kept."
            raise ResourceError(
                must(f"a file of {folder}", f"be within {SIZE_LIMIT}", "a larger one", remedy)
            ) from error
        if removed:
            remedy = "Run the same command again: finished work is kept."
            raise ResourceError(
                must(f"the work folder of {folder}", "stay while it is written", "one that was removed", remedy)
            ) from error
        if full:  # libraries raise errors of their own for a full disk
            remedy = "Free space, or pass outputs_dir=<another disk>; run again: finished work is kept."
            raise ResourceError(must(f"the disk of {folder}", "have room for it", "a full disk", remedy)) from error
        raise


def _put_aside(folder: Path, replaced: Path) -> None:
    """Rename a folder that is to be replaced; remove a folder of a container's image, which overlayfs cannot rename."""
    try:
        os.rename(folder, replaced)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(folder)


def _says_full(error: BaseException) -> bool:
    """Return whether an error holds the system's message for a full disk or quota, whatever its class."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


def _at_limit(error: BaseException, work: Path) -> bool:
    """Return whether a file reached the process's size limit; torch does not say why a write failed."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    return os.strerror(errno.EFBIG) in str(error) or any(path.stat().st_size >= limit for path in files(work))


def _is_full(folder: Path) -> bool:
    """Return whether the folder's disk has fewer than `LEAST_FREE` bytes free."""
    try:
        return shutil.disk_usage(folder).free < LEAST_FREE
    except OSError:
        return False


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a complete folder, or None if there is none.

    Raises:
        ArtifactError: when the file is not a manifest of the pipeline, or was altered.
    """
    found = _manifest(folder)
    if isinstance(found, str):
        remedy = f"Delete {folder} and run again."
        raise ArtifactError(must(str(folder / MANIFEST), "be as it was written", found, remedy))
    return found


def _manifest(folder: Path) -> dict[str, Any] | str | None:
    """Return the manifest, None if there is none, or a description of the file that is there instead."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        return f"unreadable JSON ({first_line(error)})"
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return "another JSON file"
    return manifest if is_sealed(manifest) else "an altered one"


@upkeep.spent("verify")
def problems(folder: Path) -> list[str]:
    """Return how a folder differs from its manifest, a sentence per problem; empty if it verifies."""
    manifest = _manifest(folder)
    if isinstance(manifest, str):
        return [f"{folder / MANIFEST} is not as it was written: it is {manifest}"]
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
    """Return whether the folder has a manifest and every file it names verifies."""
    return (folder / MANIFEST).is_file() and not problems(folder)
