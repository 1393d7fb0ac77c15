"""A hub on 127.0.0.1 for tests: it serves folders as model and data set repositories over HTTP, and plays faults.

Files are read from disk when published; every publication is a commit and moves its branch, `main` unless named. With
`redirects` large files come from another origin, as from a CDN. Not imitated: Xet, pagination, rate-limit headers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet", ".arrow")
"""Files the hub stores as LFS objects, whose ETag is the sha256 of their content."""

TOKEN = "hf_loopbackLOOPBACKloopbackLOOPBACK00"
"""The one token this hub accepts."""


@dataclass(slots=True)
class Fault:
    """A fault: `play` happens to the first `times` requests (None: all) whose "METHOD path" matches `match`.

    play: an HTTP status such as "503"; "gated" (403), "private" (401), "gone" (404: no such repository);
    "cut" (the body breaks off half way), "size" (a body of half the announced length, as if it were whole),
    "corrupt" (one byte differs), "stall" (half a body, then silence), "hang" (no answer at all).
    """

    match: str
    play: str
    times: int | None = None
    played: int = 0


@dataclass(slots=True)
class _Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: clients that hang up are part of the tests."""


class LoopbackHub:
    """Repositories in memory behind a real HTTP server."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], _Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.redirects = False
        self.authorizations: set[tuple[str, str]] = set()
        self.uploads: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.released = threading.Event()
        self._server: _Server | None = None

    def publish(self, kind: str, name: str, folder: Path, branch: str = "main") -> str:
        """Make the folder's present content the next commit of a repository; return the commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return self.commit(kind, name, files, branch)

    def commit(self, kind: str, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        repository = self.repositories.setdefault((kind, name), _Repository())
        digest = hashlib.sha1(f"{kind} {name} {len(repository.commits)}".encode())
        for path, data in sorted(files.items()):
            digest.update(path.encode() + hashlib.sha1(data).digest())
        repository.commits[digest.hexdigest()] = files
        repository.branches[branch] = digest.hexdigest()
        return digest.hexdigest()

    def play(self, match: str, play: str, times: int | None = None) -> Fault:
        fault = Fault(match, play, times)
        self.faults.append(fault)
        return fault

    def fault_for(self, line: str) -> str | None:
        with self.lock:
            for fault in self.faults:
                if fnmatch(line, fault.match) and (fault.times is None or fault.played < fault.times):
                    fault.played += 1
                    return fault.play
        return None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[LoopbackHub]:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.released.clear()
        self._server = _Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def git_id(data: bytes) -> str:
    """Return git's id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


def entry_of(path: str, data: bytes) -> dict[str, Any]:
    """Return a file's entry in a tree listing."""
    entry: dict[str, Any] = {"type": "file", "oid": git_id(data), "size": len(data), "path": path}
    if is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self._length = int(self.headers.get("Content-Length") or 0)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self._payload = b"".join(self._chunks())
        else:
            self._payload = self.rfile.read(self._length) if self._length else b""
        with self.hub.lock:
            self.hub.requests.append(line)
            if self.headers.get("Range"):
                self.hub.ranges.append(f"{path} {self.headers['Range']}")
            self.hub.authorizations.add((line, self.headers.get("Authorization", "")))
        play = self.hub.fault_for(line)
        if play == "hang":
            self.hub.released.wait(30)
            self.close_connection = True
        elif play == "gated":
            self._fail(403, "GatedRepo", "Access to this repository is restricted.")
        elif play == "private":
            self._fail(401, "RepoNotFound", "Repository not found")
        elif play == "gone":
            self._fail(404, "RepoNotFound", "Repository not found")
        elif play and play.isdigit():
            self._fail(int(play), "", "played")
        elif path.startswith("/api/"):
            self._api(path.removeprefix("/api/"))
        elif path.startswith("/cdn/"):
            self._cdn(path.removeprefix("/cdn/"), play)
        elif "/resolve/" in path:
            self._resolve(path, play)
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch()
        elif path.startswith("/lfs/"):
            self.hub.uploads[path.removeprefix("/lfs/")] = self._payload
            self._send(200, b"")
        else:
            self._fail(404, "", "no such address")

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _find(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit and files of a revision; if something is missing, answer so and return None."""
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            # The hub hides whether a repository exists from those who may not read it.
            self._fail(401, "RepoNotFound", "Repository not found")
            return None
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, repository.commits[commit]

    def _api(self, path: str) -> None:
        if path == "whoami-v2":
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                return self._json({"type": "user", "name": "tester", "orgs": [], "auth": {"type": "access_token"}})
            return self._fail(401, "", "Invalid credentials in Authorization header")
        if path == "repos/create":
            asked = json.loads(self._payload)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._fail(401, "", "Invalid credentials in Authorization header")
            kind, name = asked.get("type", "model"), f"{asked.get('organization') or 'tester'}/{asked['name']}"
            if (kind, name) not in self.hub.repositories:
                self.hub.commit(kind, name, {})
            return self._json({"url": f"{self.hub.url}/{name}", "id": name})
        if path == "validate-yaml":
            return self._json({"errors": [], "warnings": []})
        plural, *parts = path.split("/")
        kind, name, rest = plural.removesuffix("s"), "/".join(parts[:2]), parts[2:]
        action = rest[0] if rest else "revision"
        found = self._find(kind, name, rest[1] if len(rest) > 1 else "main")
        if found is None:
            return None
        commit, files = found
        if action == "revision":
            listing = [{"rfilename": path} for path in sorted(files)]
            return self._json({"id": name, "sha": commit, "private": False, "gated": False, "siblings": listing})
        if action == "tree":
            return self._tree(files, "/".join(rest[2:]))
        if action == "preupload":
            asked_files = json.loads(self._payload)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if is_large(f["path"]) else "regular", "shouldIgnore": False}
                for f in asked_files
            ]
            return self._json({"files": modes})
        if action == "commit":
            return self._commit(kind, name, rest[1], files)
        return self._fail(404, "", "no such endpoint")

    def _tree(self, files: dict[str, bytes], below: str) -> None:
        wanted = {path: data for path, data in files.items() if not below or path.startswith(below + "/")}
        if below and not wanted:
            return self._fail(404, "EntryNotFound", f"{below} does not exist")
        folders = sorted({str(parent) for path in wanted for parent in Path(path).parents if str(parent) != "."})
        entries = [{"type": "directory", "oid": git_id(f.encode()), "size": 0, "path": f} for f in folders]
        return self._json(entries + [entry_of(path, data) for path, data in sorted(wanted.items())])

    def _commit(self, kind: str, name: str, branch: str, files: dict[str, bytes]) -> None:
        after = dict(files)
        for line in self._payload.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                after[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                after[value["path"]] = self.hub.uploads[value["oid"]]
            elif operation["key"] == "deletedFile":
                after.pop(value["path"], None)
        commit = self.hub.commit(kind, name, after, branch)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def _batch(self) -> None:
        objects = [
            {**asked, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}
            for asked in json.loads(self._payload)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _resolve(self, path: str, play: str | None) -> None:
        repository, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        dataset = repository.startswith("datasets/")
        found = self._find("dataset" if dataset else "model", repository.removeprefix("datasets/"), revision)
        if found is None:
            return
        commit, files = found
        if name not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data = files[name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_id(data)}"', "Accept-Ranges": "bytes"}
        if is_large(name):
            digest = f'"{hashlib.sha256(data).hexdigest()}"'
            headers |= {"ETag": digest, "X-Linked-Etag": digest, "X-Linked-Size": str(len(data))}
            if self.hub.redirects:
                elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # another origin for the client
                headers["Location"] = f"{elsewhere}/cdn/{digest.strip(chr(34))}"
                self._send(302, b"", headers)
                return
        if play == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if play == "size":
            data = data[: len(data) // 2]
            if self.command == "HEAD":
                data = files[name]
        self._body(data, headers, play)

    def _cdn(self, digest: str, play: str | None) -> None:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for path, data in files.items():
                    if is_large(path) and hashlib.sha256(data).hexdigest() == digest:
                        self._body(data, {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}, play)
                        return
        self._fail(404, "", "no such object")

    def _body(self, data: bytes, headers: dict[str, str], play: str | None) -> None:
        asked, status, whole = self.headers.get("Range"), 200, len(data)
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= whole:
                return self._send(416, b"", {"Content-Range": f"bytes */{whole}"})
            data, status = data[start:], 206
            headers = {**headers, "Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
        if self.command == "HEAD" or play not in ("cut", "stall"):
            return self._send(status, data, headers)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        if play == "stall":
            self.hub.released.wait(30)
        else:
            time.sleep(0.01)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        return None
