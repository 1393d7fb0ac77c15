"""Where a model or data set lies on this disk, and its identity: a package, a folder, or a hub repository's commit.

Knows nothing of what is inside the files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import packages
from pipeline.core.errors import HubError, changed, must
from pipeline.core.fingerprint import text_digest
from pipeline.hub.cache import Kind, Repository
from pipeline.hub.lock_file import LockFile
from pipeline.hub.repo_files import identity_files, is_commit, looks_local

PACKAGE = "package:"
"""Prefix of a path that names weights inside an installed package."""

COLLECTION = r"queries\.jsonl|corpus\.jsonl|qrels/[^/]+\.tsv|qrels\.tsv|run\.trec"
"""Pattern of the files of a folder in the BEIR layout, by path below the folder."""


@dataclass(frozen=True, slots=True)
class Located:
    """An artefact on this disk.

    `folder` is a folder, or the file itself for a local file. `identity` enters a stage's key: `hub` and `commit`,
    or `package`, `version` and `sha256`, or `sha256` alone. `description` is for people. `key` is the configuration
    key that asked for the artefact.
    """

    folder: Path
    identity: dict[str, str]
    description: str
    kind: Kind = "dataset"
    key: str = ""


def locate(
    path: str,
    revision: str | None,
    *,
    kind: Kind,
    lock: Path,
    key: str,
    refresh: bool = False,
    allow: Sequence[str] | None = None,
) -> Located:
    """Find an artefact, downloading it from the hub where it is not here yet.

    A hub id may carry its revision, as `owner/name@revision`, which then goes before `revision`.
    `lock` is a JSON file that keeps, for each hub id and revision, the commit it resolved to and the sha256 of the
    files that came; the commit is used until `refresh`. `allow` narrows the files of a repository by glob; None
    takes every file of a data set, and of a model its weights, configuration and tokenizer (safetensors rather
    than pickles). `key` names the configuration key in messages.

    Raises:
        HubError: when it cannot be had, in one sentence with cause and remedy.
    """
    if path.startswith(PACKAGE):
        return _packaged(path.removeprefix(PACKAGE), lock, key)
    local = Path(path)
    if local.exists():
        identity = {"sha256": _local_digest(local, kind, lock, key)}
        return Located(local, identity, f"{path} (local, sha256 {identity['sha256'][:12]})", kind, key)
    repository = _repository(path, revision, kind, lock, key, allow)
    with repository.refusals():
        commit = repository.commit(refresh)
        folder = repository.snapshot(commit)
    name = repository.name
    return Located(folder, {"hub": name, "commit": commit}, f"{name} at {commit[:12]} (hub)", kind, key)


def refuse_changed(lock: Path, *read: Located | None) -> None:
    """Refuse a local or packaged artefact that has changed since `locate`: it may have been read with other content.

    A commit of the hub cannot change and is not checked.

    Raises:
        DataError: naming the key.
    """
    for located in read:
        before = None if located is None else located.identity.get("sha256")
        if located and before and before != _local_digest(located.folder, located.kind, lock, located.key):
            raise changed(f"{located.key}={located.folder}")


def _repository(
    path: str, revision: str | None, kind: Kind, lock: Path, key: str, allow: Sequence[str] | None = None
) -> Repository:
    """Return the repository that a hub id names; refuse a name that means this disk before the hub is asked."""
    parent = Path(path).parent
    if looks_local(path) or (parent != Path() and parent.exists()):
        raise HubError(must(key, "name a file or folder that exists", repr(path), "Check the path, or give a hub id."))
    found = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", path)
    if found is None:
        remedy = "Correct it; a revision follows an @."
        raise HubError(must(key, "be a folder or a hub id such as owner/name", repr(path), remedy))
    return Repository(found[1], found[2] or revision, kind, lock, key, None if allow is None else tuple(allow))


def is_fixed(path: str, revision: str | None) -> bool:
    """Return whether `path` cannot mean other files tomorrow by a branch that moves: it is here, or names a commit."""
    if path.startswith(PACKAGE) or Path(path).exists():
        return True
    return is_commit(path.partition("@")[2] or revision or "")


@dataclass(frozen=True, slots=True)
class Preview:
    """What `locate` would take from the hub: the commit, its bytes in all, and the bytes still to download."""

    commit: str
    total_bytes: int
    missing_bytes: int


def preview(path: str, revision: str | None, *, kind: Kind, lock: Path, key: str, refresh: bool) -> Preview | None:
    """Resolve and list a hub artefact without downloading it; None where `path` is a package, file or folder.

    Raises:
        HubError: as `locate`.
    """
    if path.startswith(PACKAGE) or Path(path).exists():
        return None
    repository = _repository(path, revision, kind, lock, key)
    with repository.refusals():
        commit = repository.commit(refresh)
        wanted = repository.wanted(commit)
        missing = repository.missing(commit, wanted)
    return Preview(commit, sum(entry.size for entry in wanted), sum(entry.size for entry in missing))


def _packaged(module: str, lock: Path, key: str) -> Located:
    """Locate the model folder of an installed package, without importing the package."""
    top, *below = module.split(".")
    root = packages.folder_of(top)
    if root is None:
        remedy = "Install it (`make setup` does for the models in conf/model/), or give a folder or hub id."
        raise HubError(must(key, "name an installed package", repr(PACKAGE + module), remedy))
    root = root.joinpath(*below)
    folders = sorted(c.parent for c in root.rglob("config.json") if (c.parent / "model.safetensors").is_file())
    if not folders:
        remedy = "A packaged model is a folder with config.json and model.safetensors."
        raise HubError(must(key, "name a package that holds a model", repr(PACKAGE + module), remedy))
    version = packages.version_of(top) or "unknown"
    identity = {"package": top, "version": version, "sha256": _local_digest(folders[0], "model", lock, key)}
    return Located(folders[0], identity, f"{top} {version} (installed package)", "model", key)


def _local_digest(path: Path, kind: Kind, lock: Path, key: str) -> str:
    """Return the sha256 over names and contents: a model's weights, configuration and tokenizer, or all files of data.

    For a collection to evaluate, only the collection's own files count: results may be written beside them.
    """
    if path.is_file():
        return LockFile(lock).digest(path)
    files = sorted(
        (found.relative_to(path).as_posix(), found)
        for found in path.rglob("*")
        if found.is_file() and not any(part.startswith(".") for part in found.relative_to(path).parts)
    )
    if kind == "model":
        deciding = set(identity_files([name for name, _ in files]))
        files = [(name, found) for name, found in files if name in deciding]
    if key == "evaluation.collections":
        files = [(name, found) for name, found in files if re.fullmatch(COLLECTION, name)]
    lock_file = LockFile(lock)
    return text_digest(text for name, found in files for text in (name, lock_file.digest(found)))
