"""Where a model or data set lies on this disk, and what it is: package, folder or hub repository at one commit.

Wraps huggingface_hub. Knows nothing of what is inside the files; never runs code from a repository.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from huggingface_hub import HfApi, constants, get_cached_repo_tree, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, RevisionResolutionError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from pipeline.artifacts import MANIFEST, locked, read_json, write_json
from pipeline.download import OTHER_WAYS, Mismatch, fetch, refusal, retrying
from pipeline.errors import HubError, must
from pipeline.fingerprint import file_digest, text_digest

log = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]

PACKAGE = "package:"
"""Prefix of a path that names weights inside an installed package."""

REMEMBER_FROM_BYTES = 32 * 2**20
"""Larger files are hashed once and remembered by size and modification time; smaller ones at every start."""

_UNUSED = ("*.py", "*.onnx*", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.gguf", "*.mlmodel", "*.pt", "*.pth", "*.ckpt")
_UNUSED_FOLDERS = ("onnx", "openvino", "coreml", "tf", "flax", "original")
_IDENTITY = (".safetensors", ".bin", ".json", ".txt", ".model", ".vocab")


@dataclass(frozen=True, slots=True)
class Located:
    """An artefact on this disk.

    `folder` is a folder, or the file itself for a local file. `identity` enters a stage's key: `hub` and `commit`,
    or `package`, `version` and `sha256`, or `sha256` alone. `description` is for people.
    """

    folder: Path
    identity: dict[str, str]
    description: str


def locate(
    path: str,
    revision: str | None,
    *,
    kind: Kind,
    lock: Path,
    refresh: bool,
    allow: Sequence[str] | None,
    key: str,
) -> Located:
    """Find an artefact, downloading it from the hub where it is not here yet.

    `lock` is a JSON file that keeps, for each hub id and revision, the commit it resolved to and the sha256 of the
    files that came; the commit is used until `refresh`. `allow` narrows the files of a repository by glob; None
    takes every file of a data set, and of a model its weights, configuration and tokenizer (safetensors rather
    than pickles). `key` names the configuration key in messages.

    Raises:
        HubError: when it cannot be had, in one sentence with cause and remedy.
    """
    if path.startswith(PACKAGE):
        return _packaged(path.removeprefix(PACKAGE), lock, key)
    local = Path(path).expanduser()
    if local.exists():
        identity = {"sha256": _local_digest(local, kind, lock)}
        return Located(local, identity, f"{path} (local, sha256 {identity['sha256'][:12]})")
    if _looks_local(path):
        raise HubError(must(key, "name a file or folder that exists", path, "Check the path, or give a hub id."))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise HubError(must(key, "be a folder or a hub id such as owner/name", path, "Correct it."))
    repository = _Repository(path, revision, kind, lock, key, tuple(allow) if allow is not None else None)
    try:
        commit = repository.commit(refresh)
        folder = repository.snapshot(commit)
    except HubError:
        raise
    except Exception as error:
        raise refusal(error, key=key, repository=path, kind=kind, revision=revision) from None
    return Located(folder, {"hub": path, "commit": commit}, f"{path} at {commit[:12]} (hub)")


def _looks_local(path: str) -> bool:
    parent = Path(path).expanduser().parent
    shaped = path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1
    return shaped or (str(parent) != "." and parent.exists()) or bool(re.search(r"\.(jsonl?|csv|tsv|parquet)$", path))


def _packaged(module: str, lock: Path, key: str) -> Located:
    """The model folder of an installed package, found without importing it."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        remedy = "Install it (`make setup` does for the models in conf/model/), or give a folder or hub id."
        raise HubError(must(key, "name an installed package", PACKAGE + module, remedy))
    root = Path(next(iter(spec.submodule_search_locations)), *below)
    folders = sorted(c.parent for c in root.rglob("config.json") if (c.parent / "model.safetensors").is_file())
    if not folders:
        remedy = "A packaged model is a folder with config.json and model.safetensors."
        raise HubError(must(key, "name a package that holds a model", PACKAGE + module, remedy))
    try:
        version = importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(top, [])
        version = importlib.metadata.version(names[0]) if names else "unknown"
    digest = _local_digest(folders[0], "model", lock)
    return Located(
        folders[0], {"package": top, "version": version, "sha256": digest}, f"{top} {version} (installed package)"
    )


def _local_digest(path: Path, kind: Kind, lock: Path) -> str:
    """sha256 over names and contents: of a model its weights, configuration and tokenizer, of data everything."""
    if path.is_file():
        return _Book(lock).digest(path)
    files = sorted(
        (found.relative_to(path).as_posix(), found)
        for found in path.rglob("*")
        if found.is_file() and not any(part.startswith(".") for part in found.relative_to(path).parts)
    )
    if kind == "model":
        wanted = set(_without_pickles([name for name, _ in files if _is_model_file(name) and name != MANIFEST]))
        files = [(name, found) for name, found in files if name in wanted and found.suffix in _IDENTITY]
    book = _Book(lock)
    return text_digest(text for name, found in files for text in (name, book.digest(found)))


def _is_model_file(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if parts[0] in _UNUSED_FOLDERS or any(fnmatch(parts[-1], pattern) for pattern in _UNUSED):
        return False
    return not parts[-1].endswith(".bin") or parts[-1].startswith("pytorch_model")


def _without_pickles(names: list[str]) -> list[str]:
    """Leave out pickled weights in every folder that has safetensors."""
    safe = {str(PurePosixPath(name).parent) for name in names if name.endswith(".safetensors")}
    return [
        name
        for name in names
        if not (PurePosixPath(name).name.startswith("pytorch_model") and str(PurePosixPath(name).parent) in safe)
    ]


class _Book:
    """The lock file: `commits` by artefact, `files` by artefact and commit, `hashed` large files by path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, section: str, name: str) -> Any:
        return read_json(self.path).get(section, {}).get(name) if self.path.exists() else None

    def put(self, section: str, name: str, value: Any) -> None:
        with locked(self.path):
            content = read_json(self.path) if self.path.exists() else {}
            content.setdefault(section, {})[name] = value
            write_json(self.path, {part: dict(sorted(content[part].items())) for part in sorted(content)})

    def digest(self, path: Path) -> str:
        """sha256 of a file; of a large one from memory while its size and modification time stand."""
        real = path.resolve()
        stat = real.stat()
        if stat.st_size < REMEMBER_FROM_BYTES:
            return file_digest(real)
        seen = self.get("hashed", str(real))
        if not seen or seen[:2] != [stat.st_size, stat.st_mtime_ns]:
            seen = [stat.st_size, stat.st_mtime_ns, file_digest(real)]
            self.put("hashed", str(real), seen)
        return str(seen[2])


@dataclass(frozen=True, slots=True)
class _Repository:
    """One repository of the hub and its place in the hub client's cache."""

    name: str
    revision: str | None
    kind: Kind
    lock: Path
    key: str
    allow: tuple[str, ...] | None

    @property
    def _cache(self) -> Path:
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.name, repo_type=self.kind)

    def commit(self, refresh: bool) -> str:
        """The commit of `revision`: from the lock file, else from the hub (then recorded)."""
        label = f"{self.kind} {self.name} {self.revision or constants.DEFAULT_REVISION}"
        book = _Book(self.lock)
        known = None if refresh else book.get("commits", label)
        if known:
            return str(known)
        if self.revision and re.fullmatch(r"[0-9a-f]{40}", self.revision):
            commit = self.revision
        elif constants.is_offline_mode() and not refresh:
            commit = self._cached_commit()
        else:
            info = retrying(
                self.name, lambda: HfApi().repo_info(self.name, repo_type=self.kind, revision=self.revision)
            )
            commit = str(info.sha)
        book.put("commits", label, commit)
        log.info("%s: %s is commit %s", self.name, self.revision or constants.DEFAULT_REVISION, commit)
        return commit

    def _cached_commit(self) -> str:
        try:
            return (
                HfApi()
                .resolve_revision(self.name, repo_type=self.kind, revision=self.revision, local_files_only=True)
                .resolved
            )
        except RevisionResolutionError:
            remedy = f"Run once with a connection and without HF_HUB_OFFLINE. {OTHER_WAYS}"
            raise HubError(
                must(self.key, "be in the cache when HF_HUB_OFFLINE=1", f"{self.name}, not cached", remedy)
            ) from None

    def snapshot(self, commit: str) -> Path:
        """The folder of the files at `commit`, each one there and as the hub announced it."""
        label = f"{self.kind} {self.name} {commit}" + (f" {' '.join(self.allow)}" if self.allow else "")
        folder = self._cache / "snapshots" / commit
        book = _Book(self.lock)
        expected = book.get("files", label)
        if expected and not (bad := _bad(folder, expected, book)):
            return folder
        if constants.is_offline_mode():
            entries = self._offline_entries(commit)
        else:
            if expected:
                log.warning("%s: %s in the cache is missing or altered, fetching it again", self.name, ", ".join(bad))
            entries = self._entries(commit)
        wanted = self._wanted(entries)
        self._discard(folder, wanted, expected or {}, book)
        if not constants.is_offline_mode():
            self._download(commit, wanted, folder)
        names = [entry.path for entry in wanted]
        retrying(
            self.name,
            lambda: snapshot_download(self.name, repo_type=self.kind, revision=commit, allow_patterns=_literal(names)),
        )
        found = {name: {"size": (folder / name).stat().st_size, "sha256": book.digest(folder / name)} for name in names}
        book.put("files", label, found)
        return folder

    def _entries(self, commit: str) -> list[RepoFile]:
        def listing() -> list[RepoFile]:
            tree = HfApi().list_repo_tree(self.name, recursive=True, revision=commit, repo_type=self.kind)
            return [entry for entry in tree if isinstance(entry, RepoFile)]

        return retrying(self.name, listing)

    def _offline_entries(self, commit: str) -> list[RepoFile]:
        try:
            return list(get_cached_repo_tree(self.name, repo_type=self.kind, revision=commit))
        except CachedRepoTreeNotFoundError:
            remedy = f"Run once with a connection and without HF_HUB_OFFLINE. {OTHER_WAYS}"
            got = f"{self.name} at {commit[:12]}, not cached"
            raise HubError(must(self.key, "be in the cache when HF_HUB_OFFLINE=1", got, remedy)) from None

    def _wanted(self, entries: Iterable[RepoFile]) -> list[RepoFile]:
        names = [entry.path for entry in entries]
        if self.allow is not None:
            names = [name for name in names if any(fnmatch(name, pattern) for pattern in self.allow)]
        elif self.kind == "model":
            names = _without_pickles([name for name in names if _is_model_file(name)])
            if any(name.endswith(".bin") for name in names):
                log.info("%s has pickled weights only: they will be read with weights_only=True", self.name)
        if not names:
            raise HubError(must(self.key, "hold the files wanted", f"{self.name} without them", "Check the hub id."))
        kept = set(names)
        return sorted((entry for entry in entries if entry.path in kept), key=lambda entry: entry.path)

    def _discard(self, folder: Path, wanted: list[RepoFile], expected: dict[str, Any], book: _Book) -> None:
        """Remove cached files that are not what the hub lists, so that nothing trips over them again."""
        for entry in wanted:
            pointer = folder / entry.path
            announced = expected.get(entry.path, {}).get("sha256") or (entry.lfs.sha256 if entry.lfs else None)
            blob = pointer.resolve() if pointer.exists() else self._cache / "blobs" / (announced or entry.blob_id)
            if not blob.is_file():
                continue
            if blob.stat().st_size != entry.size or (announced and book.digest(blob) != announced):
                log.warning("%s: the cached %s is damaged and was removed", self.name, entry.path)
                blob.unlink()
                pointer.unlink(missing_ok=True)

    def _download(self, commit: str, wanted: list[RepoFile], folder: Path) -> None:
        """Bring what is missing into the cache's blobs; `snapshot_download` then only links it."""
        missing = [entry for entry in wanted if not (folder / entry.path).exists()]
        needed = sum(entry.size for entry in missing)
        if not missing:
            return
        self._cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._cache).free
        if needed > free:
            remedy = f"Free some space, or set HF_HOME to a larger disk. {OTHER_WAYS}"
            got = f"{free / 1e9:.1f} GB free for {needed / 1e9:.1f} GB of {self.name}"
            raise HubError(must("the hub's cache", "have room", got, remedy))
        log.info("%s: fetching %d files, %.1f MB", self.name, len(missing), needed / 1e6)
        for entry in missing:
            self._download_one(commit, entry)

    def _download_one(self, commit: str, entry: RepoFile) -> None:
        url = hf_hub_url(self.name, entry.path, repo_type=self.kind, revision=commit)
        metadata = retrying(entry.path, lambda: get_hf_file_metadata(url))
        etag = metadata.etag or (entry.lfs.sha256 if entry.lfs else entry.blob_id)
        if not re.fullmatch(r"[\w.-]+", etag):
            raise Mismatch(f"an ETag that names no content for {entry.path}")
        blob = self._cache / "blobs" / etag
        # Large files carry the sha256 of their content as ETag, small ones their git id.
        sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None
        guard = Path(constants.HF_HUB_CACHE) / ".locks" / self._cache.name / f"{etag}.fetch"
        with locked(guard):
            if not blob.exists():
                fetch(
                    url,
                    blob,
                    name=entry.path,
                    headers=build_hf_headers(),
                    size=metadata.size if metadata.size is not None else entry.size,
                    sha256=sha256,
                )


def _bad(folder: Path, expected: dict[str, dict[str, Any]], book: _Book) -> list[str]:
    """Names of files that are missing or differ from what came from the hub."""
    return [
        name
        for name, facts in expected.items()
        if not (folder / name).is_file()
        or (folder / name).stat().st_size != facts["size"]
        or book.digest(folder / name) != facts["sha256"]
    ]


def _literal(names: list[str]) -> list[str]:
    """File names as glob patterns that match only themselves."""
    return [re.sub(r"([*?[])", r"[\1]", name) for name in names]
