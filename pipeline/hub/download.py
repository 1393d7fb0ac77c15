"""One remote file onto disk: tried again, resumed, checked; and a failure in one sentence. Knows HTTP and the hub
client's errors; knows nothing of repositories' contents or of caches.

Requests go through the hub client's own session, so its offline switch, proxies and headers hold here as well.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from pipeline.core.errors import HubError, first_line, must
from pipeline.core.fingerprint import file_digest

log = logging.getLogger(__name__)

T = TypeVar("T")

WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Seconds before the second and later attempts; a server's own Retry-After is honoured up to `LONGEST_WAIT_S`."""

LONGEST_WAIT_S = 60.0
RESUMABLE = ".resumable"
PROGRESS_FROM_BYTES = 8 * 2**20
"""Smaller files show no bar."""

OTHER_WAYS = "With the files in the cache, HF_HUB_OFFLINE=1 uses them; experiment=quickstart needs no hub."
"""Ends every refusal: what works without this download."""

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


class Mismatch(Exception):
    """A finished download is not the file the server announced."""


class Stopped(Exception):
    """Another download of the same group failed, or the user interrupted: this one ends where it is."""


def status_of(error: BaseException) -> int | None:
    """HTTP status behind an error of the hub client, None where there was no answer."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def is_transient(error: BaseException) -> bool:
    """Whether trying again can help: busy or broken server, lost or stalled connection, damaged body."""
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in _TRANSIENT_STATUS
    return isinstance(error, httpx2.TimeoutException | httpx2.NetworkError | httpx2.RemoteProtocolError | Mismatch)


def cause_of(error: BaseException) -> str:
    """A few words on what went wrong, without addresses or headers (those may hold a token)."""
    status = status_of(error)
    if status is not None:
        return f"HTTP {status}"
    if isinstance(error, httpx2.TimeoutException):
        return f"a connection that stalled for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s"
    if isinstance(error, httpx2.ConnectError):
        return "no connection"
    if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return "a connection that broke off"
    return first_line(error)


def retrying(what: str, action: Callable[[], T], *, client_retries: bool = False) -> T:
    """Run `action`, again after each of `WAITS_S` while it fails in a way that may pass.

    `client_retries` says that the hub client itself tries this again: one attempt then, so that the two do not
    multiply to minutes.

    Raises:
        httpx2.HTTPError, Mismatch: the last failure, when attempts are used up or trying again cannot help.
    """
    for wait in (None,) if client_retries else (*WAITS_S, None):
        try:
            _limit_session()
            return action()
        except Exception as error:
            # The client wraps what it could not fetch into "not in the cache"; the reason is the cause.
            reason = next((e for e in (error, error.__cause__) if e is not None and is_transient(e)), None)
            if reason is None:
                raise
            if wait is None:
                raise reason from None
            _pause(what, reason, wait)
    raise AssertionError("unreachable")


def _limit_session() -> None:
    """Give every request without a time limit one: the client's API calls pass None and would hang for ever.

    Looked at before each attempt because the client replaces its session after a failed connection.
    """
    session = get_session()
    hooks = session.event_hooks
    if _limit not in hooks["request"]:
        session.event_hooks = {**hooks, "request": [*hooks["request"], _limit]}


def _limit(request: httpx2.Request) -> None:
    if (request.extensions.get("timeout") or {}).get("read") is None:
        timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT).as_dict()
        request.extensions = {**request.extensions, "timeout": timeout}


def _pause(what: str, reason: BaseException, wait: float) -> None:
    if isinstance(reason, HfHubHTTPError):
        asked = reason.response.headers.get("Retry-After", "")
        wait = min(max(wait, float(asked)), LONGEST_WAIT_S) if asked.isdigit() else wait
    log.warning("%s: got %s, trying again in %g s", what, cause_of(reason), wait)
    time.sleep(wait)


def fetch(
    url: str,
    target: Path,
    *,
    name: str,
    headers: Mapping[str, str],
    size: int | None,
    sha256: str | None,
    stop: threading.Event,
) -> None:
    """Download `url` to `target`; `target` appears only complete and checked. `name` is for messages; `stop` ends it.

    Bytes gather in `<target>.resumable`, which outlives a failure or a kill and is continued by the next call; so
    `target`'s name must stand for one content. A body that ends up with another size or sha256 is removed and
    fetched from the start.

    Raises:
        httpx2.HTTPError: when attempts are used up, or the server refuses.
        Mismatch: when every attempt ended in another content than announced.
        Stopped: when `stop` was set.
        OSError: when the disk cannot take it.
    """
    partial = target.with_name(target.name + RESUMABLE)

    def attempt() -> None:
        _stream(url, partial, headers, size, name, stop)
        _check(partial, size, sha256)

    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        before = _size(partial)
        try:
            retrying(name, attempt)
            break
        except httpx2.HTTPError as error:
            # A slow line may break more often than there are attempts; as long as megabytes arrive, go on.
            if not is_transient(error) or _size(partial) - before < 2**20:
                raise
    partial.replace(target)


def _stream(
    url: str, partial: Path, headers: Mapping[str, str], size: int | None, name: str, stop: threading.Event
) -> None:
    """One GET that appends to what is there, or starts over when the server ignores the range."""
    if stop.is_set():
        raise Stopped
    start = _size(partial)
    if size is not None and start >= size:
        if start == size:
            return
        partial.unlink()
        start = 0
    # Compressed bodies have no ranges and no known length.
    sent = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with get_session().stream("GET", url, headers=sent, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.status_code == 416:
            partial.unlink(missing_ok=True)
            raise Mismatch("a partial file the server cannot continue")
        hf_raise_for_status(response)
        resumed = response.status_code == 206
        with (
            partial.open("ab" if resumed else "wb") as stream,
            tqdm(
                total=size,
                initial=start if resumed else 0,
                unit="B",
                unit_scale=True,
                desc=name,
                disable=True if size is None or size < PROGRESS_FROM_BYTES else None,  # None: quiet off a terminal
            ) as bar,
        ):
            for chunk in response.iter_bytes():
                if stop.is_set():
                    raise Stopped
                stream.write(chunk)
                bar.update(len(chunk))


def _check(partial: Path, size: int | None, sha256: str | None) -> None:
    found = _size(partial)
    if size is not None and found != size:
        # The body ended as its own length said, so this is not a cut to be continued but another content.
        partial.unlink()
        raise Mismatch(f"{found} bytes where the server announced {size}")
    if sha256 is not None and file_digest(partial) != sha256:
        partial.unlink()
        raise Mismatch("a file whose sha256 differs from the one the server announced")


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def refusal(error: Exception, *, key: str, repository: str, kind: str, revision: str | None) -> HubError:
    """The sentence for a failure of the hub client. Never holds an address, a header or a token."""
    thing = f"{key}={repository}"
    got, rule, remedy = cause_of(error), "be had from the hub", "Try again later."
    status = status_of(error)
    if isinstance(error, GatedRepoError):
        rule, got = "be open to you", f"a gated repository (HTTP {status})"
        remedy = f"Accept its terms on its page, then {LOG_IN}."
    elif isinstance(error, RepositoryNotFoundError):
        rule, got = f"be a {kind} on the hub that you may read", f"none of that name, or a private one (HTTP {status})"
        remedy = f"Check the spelling; for a private repository {LOG_IN}."
    elif isinstance(error, RevisionNotFoundError):
        rule, got = "have the revision asked for", f"none called {revision or 'main'} (HTTP {status})"
        remedy = f"Correct {key.rsplit('.', 1)[0]}.revision, or pass hub.refresh=true if it moved."
    elif isinstance(error, RemoteEntryNotFoundError) or status == 404:
        rule, got = "hold every file it lists", f"a missing file (HTTP {status})"
        remedy = "Pass hub.refresh=true to take its present commit."
    elif status in (401, 403):
        rule, got = "be open to you", f"access refused (HTTP {status})"
        remedy = f"Ask for access on its page, then {LOG_IN}."
    elif isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        rule, got = "be in the cache when the hub is off (HF_HUB_OFFLINE=1)", f"{repository}, not all of it cached"
        remedy = "Run once with a connection and without HF_HUB_OFFLINE."
    elif isinstance(error, HFValidationError):
        rule, remedy = "be a hub id such as owner/name", "Correct it."
    elif isinstance(error, Mismatch):
        rule, remedy = "arrive as the hub announced it", "The damaged file was removed: run again."
    elif isinstance(error, HfHubHTTPError | httpx2.HTTPError):
        remedy = "Run again: what has arrived is kept and continued."
    elif isinstance(error, OSError):
        rule, remedy = "fit on this disk and be writable", "Free some space, or set HF_HOME to another folder."
        got = errno.errorcode.get(error.errno or 0, type(error).__name__)
    elif isinstance(error, ValueError | KeyError):
        rule, remedy = "be answered for by a hub", "Check HF_ENDPOINT and any proxy."
        got = f"an answer that is not a hub's ({got})"
    return HubError(must(thing, rule, got, f"{remedy} {OTHER_WAYS}"))
