"""Repositories of the hub in the hub client's cache: one commit, only the files wanted, each verified.

Wraps huggingface_hub. Knows nothing of local folders or packages, and never runs code from a repository.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import httpx2
from huggingface_hub import HfApi, constants, get_cached_repo_tree, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, RevisionResolutionError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from pipeline.core.atomic import locked, write_text
from pipeline.core.console import in_bytes, number_of
from pipeline.core.errors import HubError, PipelineError, must
from pipeline.hub.download import fetch, retrying
from pipeline.hub.failures import OTHER_WAYS, Mismatch, no_folder, refusal
from pipeline.hub.lock_file import LockFile
from pipeline.hub.repo_files import is_commit, is_pickle, literal_patterns, model_files

log = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]

DOWNLOADS_AT_ONCE = 4
"""Files downloaded at a time, so that the many small files of a data set do not wait for each other's round trips."""


@dataclass(frozen=True, slots=True)
class Repository:
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

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn errors of the hub client, of the hub's answers and of the disk into a `HubError` of one sentence."""
        try:
            yield
        except PipelineError:
            raise
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, KeyError, Mismatch) as error:
            raise refusal(error, key=self.key, repository=self.name, kind=self.kind, revision=self.revision) from None

    @property
    def _label(self) -> str:
        return f"{self.kind} {self.name} {self.revision or constants.DEFAULT_REVISION}"

    def commit(self, refresh: bool) -> str:
        """Return the commit of `revision`: from the lock file, or resolved anew and recorded there."""
        if not refresh and (known := LockFile(self.lock).get("commits", self._label)):
            return str(known)
        if self.revision and is_commit(self.revision):
            commit = self.revision
        elif constants.is_offline_mode() and not refresh:
            commit = self._cached_commit()
        else:
            info = retrying(
                self.name, lambda: HfApi().repo_info(self.name, repo_type=self.kind, revision=self.revision)
            )
            commit = str(info.sha)
            # The hub client writes this file too: HF_HUB_OFFLINE=1 then finds the commit even without the lock file.
            with contextlib.suppress(OSError):
                write_text(self._cache / "refs" / (self.revision or constants.DEFAULT_REVISION), commit)
        LockFile(self.lock).put("commits", self._label, commit)
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
            raise self._not_cached(self.name, no_folder(self.name)) from None

    def snapshot(self, commit: str) -> Path:
        """Return the folder of the files at `commit`, each of them present and as the hub announced it."""
        label = f"{self.kind} {self.name} {commit}" + (f" {' '.join(self.allow)}" if self.allow else "")
        folder = self._cache / "snapshots" / commit
        lock_file = LockFile(self.lock)
        expected: dict[str, dict[str, Any]] = lock_file.get("files", label) or {}
        if expected and not lock_file.differing(folder, expected):
            return folder
        wanted = self.wanted(commit)
        self._discard(folder, wanted, expected, lock_file)
        if not constants.is_offline_mode():
            self._download(commit, self.missing(commit, wanted))
        self._link(commit, [entry.path for entry in wanted])
        announced = {
            entry.path: {"size": entry.size, "sha256": entry.lfs.sha256 if entry.lfs else None} for entry in wanted
        }
        if differing := lock_file.differing(folder, announced):
            self._discard(folder, wanted, expected, lock_file)
            raise Mismatch(f"{', '.join(differing)} in a different form")
        found = {
            name: {"size": facts["size"], "sha256": lock_file.digest(folder / name)}
            for name, facts in announced.items()
        }
        lock_file.put("files", label, found)
        return folder

    def _link(self, commit: str, names: list[str]) -> None:
        """Let the hub client link the snapshot to the blobs; offline, it checks that the snapshot is complete."""
        retrying(
            self.name,
            lambda: snapshot_download(
                self.name,
                repo_type=self.kind,
                revision=commit,
                allow_patterns=literal_patterns(names),
                tqdm_class=_NoBar,
            ),
            client_retries=True,
        )

    def wanted(self, commit: str) -> list[RepoFile]:
        """Return the files of a commit that are asked for, sorted by path."""
        entries = self._cached_entries(commit) if constants.is_offline_mode() else self._entries(commit)
        names = [entry.path for entry in entries]
        if outside := next((name for name in names if name.startswith("/") or ".." in name.split("/")), None):
            raise Mismatch(f"a file name that leads out of the repository, {outside!r}")
        if self.allow is not None:
            names = [name for name in names if any(fnmatch(name, pattern) for pattern in self.allow)]
        elif self.kind == "model":
            names = model_files(names)
            if any(is_pickle(name) for name in names):
                log.info("%s has pickled weights only: they will be read with weights_only=True", self.name)
        if not names:
            raise HubError(
                must(self.key, "hold the files that are needed", f"{self.name} without them", "Check the hub id.")
            )
        kept = set(names)
        return sorted((entry for entry in entries if entry.path in kept), key=lambda entry: entry.path)

    def missing(self, commit: str, wanted: list[RepoFile]) -> list[RepoFile]:
        """Return the wanted files that are not in the cache."""
        folder = self._cache / "snapshots" / commit
        return [entry for entry in wanted if not (folder / entry.path).exists()]

    def _entries(self, commit: str) -> list[RepoFile]:
        def listing() -> list[RepoFile]:
            tree = HfApi().list_repo_tree(self.name, recursive=True, revision=commit, repo_type=self.kind)
            return [entry for entry in tree if isinstance(entry, RepoFile)]

        return retrying(self.name, listing, client_retries=True)

    def _cached_entries(self, commit: str) -> list[RepoFile]:
        try:
            return list(get_cached_repo_tree(self.name, repo_type=self.kind, revision=commit))
        except CachedRepoTreeNotFoundError:
            raise self._not_cached(f"{self.name} at {commit[:12]}") from None

    def _not_cached(self, what: str, more: str = "") -> HubError:
        remedy = f"Run once with a connection and without HF_HUB_OFFLINE. {OTHER_WAYS}"
        return HubError(must(self.key, "be in the cache when HF_HUB_OFFLINE=1", f"{what}, not cached{more}", remedy))

    def _discard(self, folder: Path, wanted: list[RepoFile], expected: dict[str, Any], lock_file: LockFile) -> None:
        """Remove cached files that differ from what the hub lists, so that no later run meets them."""
        for entry in wanted:
            pointer = folder / entry.path
            announced = expected.get(entry.path, {}).get("sha256") or (entry.lfs.sha256 if entry.lfs else None)
            blob = pointer.resolve() if pointer.exists() else self._cache / "blobs" / (announced or entry.blob_id)
            if not blob.is_file():
                continue
            if blob.stat().st_size != entry.size or (announced and lock_file.digest(blob) != announced):
                log.warning("%s: the cached %s is damaged and was removed", self.name, entry.path)
                blob.unlink()
                pointer.unlink(missing_ok=True)

    def _download(self, commit: str, missing: list[RepoFile]) -> None:
        """Download files into the cache's blobs, several at a time."""
        # Two files of equal content are one blob: fetched by two threads, the second would only wait for the first.
        missing = list({entry.lfs.sha256 if entry.lfs else entry.blob_id: entry for entry in missing}.values())
        if not missing:
            return
        needed = sum(entry.size for entry in missing)
        self._cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._cache).free
        if needed > free:
            remedy = f"Free some space, or set HF_HOME to a larger disk. {OTHER_WAYS}"
            got = f"{in_bytes(free)} free for {in_bytes(needed)} of {self.name}"
            raise HubError(must("the hub's cache", "have room", got, remedy))
        log.info("%s: fetching %s, %s", self.name, number_of(len(missing), "file"), in_bytes(needed))
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=DOWNLOADS_AT_ONCE) as pool:
            try:
                started = [pool.submit(self._download_one, commit, entry, stop) for entry in missing]
                for done in as_completed(started):
                    done.result()
            except BaseException:  # Ctrl-C too must not wait for gigabytes that nobody will read
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _download_one(self, commit: str, entry: RepoFile, stop: threading.Event) -> None:
        url = hf_hub_url(self.name, entry.path, repo_type=self.kind, revision=commit)
        metadata = retrying(entry.path, lambda: get_hf_file_metadata(url), stop=stop)
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
                    size=entry.size,
                    sha256=sha256,
                    stop=stop,
                )


class _NoBar(tqdm):  # type: ignore[misc]
    """A disabled progress bar: linking files takes no time, and downloads have their own bar."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})
