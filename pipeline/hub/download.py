"""Download of one remote file to disk, with retries, resumption and checks. Knows HTTP, not repositories or caches.

Requests go through the hub client's own session, so its offline switch, proxies and headers hold here as well.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from pipeline.core.fingerprint import file_digest
from pipeline.hub.failures import Mismatch, cause_of, is_transient

log = logging.getLogger(__name__)

T = TypeVar("T")

WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Seconds before the second and later attempts; a server's own Retry-After is honoured up to `LONGEST_WAIT_S`."""

LONGEST_WAIT_S = 60.0
RESUMABLE = ".resumable"
PROGRESS_FROM_BYTES = 8 * 2**20
"""Smaller files show no progress bar."""


class Stopped(Exception):
    """A download ended early because another of its group failed or the user interrupted."""


def retrying(
    what: str, action: Callable[[], T], *, client_retries: bool = False, stop: threading.Event | None = None
) -> T:
    """Run `action`, and again after each of `WAITS_S` while its failures are transient.

    `client_retries` says that the hub client itself retries this action. Then one attempt is made here, so that the
    two kinds of retries do not multiply to minutes. `stop` ends a wait.

    Raises:
        Stopped: when `stop` was set during a wait.
        httpx2.HTTPError, Mismatch: the last failure, when attempts are used up or trying again cannot help.
    """
    for wait in (None,) if client_retries else (*WAITS_S, None):
        try:
            _limit_session()
            return action()
        except Exception as error:
            # The client reports a failed request as "not in the cache"; the reason is that error's `__cause__`.
            reason = next((e for e in (error, error.__cause__) if e is not None and is_transient(e)), None)
            if reason is None:
                raise
            if wait is None:
                raise reason from None
            _pause(what, reason, wait, stop or threading.Event())
    raise AssertionError("unreachable")


def _limit_session() -> None:
    """Set a timeout on every request without one: the client's API calls pass None and would hang for ever.

    Called before each attempt because the client replaces its session after a failed connection.
    """
    session = get_session()
    hooks = session.event_hooks
    if _limit not in hooks["request"]:
        session.event_hooks = {**hooks, "request": [*hooks["request"], _limit]}


def _limit(request: httpx2.Request) -> None:
    if (request.extensions.get("timeout") or {}).get("read") is None:
        timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT).as_dict()
        request.extensions = {**request.extensions, "timeout": timeout}


def _pause(what: str, reason: BaseException, wait: float, stop: threading.Event) -> None:
    if isinstance(reason, HfHubHTTPError):
        asked = reason.response.headers.get("Retry-After", "")
        wait = min(max(wait, float(asked)), LONGEST_WAIT_S) if asked.isdigit() else wait
    log.warning("%s: got %s, trying again in %g s", what, cause_of(reason), wait)
    if stop.wait(wait):
        raise Stopped


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
    """Download `url` to `target`, which appears only complete and checked. `name` is for messages; `stop` ends it.

    The bytes are collected in `<target>.resumable`, which survives a failure or a kill and is continued by the next
    call. Therefore the name of `target` must identify one content. A body whose size or sha256 differs from the
    announced one is removed and downloaded from the start.

    Raises:
        httpx2.HTTPError: when attempts are used up, or the server refuses.
        Mismatch: when every attempt ended with content other than announced.
        Stopped: when `stop` was set.
        OSError: when the file cannot be written.
    """
    partial = target.with_name(target.name + RESUMABLE)

    def attempt() -> None:
        _stream(url, partial, headers, size, name, stop)
        _check(partial, size, sha256)

    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        before = _size(partial)
        try:
            retrying(name, attempt, stop=stop)
            break
        except httpx2.HTTPError as error:
            # A slow connection may break more often than there are attempts: go on as long as megabytes arrive.
            if not is_transient(error) or _size(partial) - before < 2**20:
                raise
    partial.replace(target)


def _stream(
    url: str, partial: Path, headers: Mapping[str, str], size: int | None, name: str, stop: threading.Event
) -> None:
    """Send one GET and append its body to the partial file, or start over when the server ignores the range."""
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
                disable=True if size is None or size < PROGRESS_FROM_BYTES else None,  # None: no bar off a terminal
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
        # The body ended at its own announced length: it was not cut off, so it is other content, not to be continued.
        partial.unlink()
        raise Mismatch(f"{found} bytes where the server announced {size}")
    if sha256 is not None and file_digest(partial) != sha256:
        partial.unlink()
        raise Mismatch("a file whose sha256 differs from the one the server announced")


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
