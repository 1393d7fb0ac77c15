"""Why a request to the hub failed, in one sentence, and whether trying again can help.

Knows HTTP and the hub client's errors; opens no file and decides nothing.
"""

from __future__ import annotations

import errno
import re

import httpx2
from huggingface_hub import constants
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

from pipeline.core.errors import SIZE_LIMIT, HubError, first_line, must
from pipeline.hub.repo_files import is_commit

OTHER_WAYS = "With the files in the cache, HF_HUB_OFFLINE=1 uses them; experiment=quickstart needs no hub."
"""End of every refusal: what works without this download."""

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
_STATUS_IN_WORDS = re.compile(r"HTTP status \w+ error \((\d{3})\b")
_ADDRESS = re.compile(r"\w+://[^\s)]+")


class Mismatch(Exception):
    """A finished download is not the file the server announced."""


def is_of_xet(error: BaseException) -> bool:
    """Return whether an error is hf_xet's: the client's transfer library raises Python's own classes, or its own.

    Its OSError, unlike the system's, has no number.
    """
    if type(error) is OSError:
        return error.errno is None
    return type(error) in (ConnectionError, TimeoutError) or type(error).__module__ == "hf_xet"


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind an error of the hub client, None where there was no answer."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code
    if is_of_xet(error) or isinstance(error, RuntimeError):  # hf_xet's where it has no class for the failure
        if found := _STATUS_IN_WORDS.search(str(error)):
            return int(found[1])
        return 403 if isinstance(error, PermissionError) else 404 if isinstance(error, FileNotFoundError) else None
    return None


def is_transient(error: BaseException) -> bool:
    """Return whether trying again can help: a busy or broken server, a lost or stalled connection, a damaged body."""
    if (status := status_of(error)) is not None:
        return status in _TRANSIENT_STATUS
    lost = httpx2.TimeoutException | httpx2.NetworkError | httpx2.RemoteProtocolError | Mismatch
    return is_of_xet(error) or isinstance(error, lost)


def cause_of(error: BaseException) -> str:
    """Describe in a few words what went wrong, without addresses or headers, which may hold a token."""
    status = status_of(error)
    if status is not None:
        return f"HTTP {status}"
    if isinstance(error, httpx2.TimeoutException):
        return f"a connection that stalled for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s"
    if isinstance(error, httpx2.ConnectError):
        return "no connection"
    if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return "a connection that broke off"
    if is_of_xet(error) and type(error) is not OSError:
        return "a connection that stalled" if isinstance(error, TimeoutError) else "a connection that failed"
    return _ADDRESS.sub("<address>", first_line(error))


def no_folder(name: str) -> str:
    """Return an addition to what was got: a name without an owner is more likely a misspelt folder than a hub id."""
    return "" if "/" in name else ", and no folder of that name here"


def refusal(error: Exception, *, key: str, repository: str, kind: str, revision: str | None) -> HubError:
    """Return the one-sentence error for a failure of the hub client. It never holds an address, a header or a token."""
    thing = f"{key}={repository}"
    got, rule, remedy = cause_of(error), "be available from the hub", "Try again later."
    status = status_of(error)
    if isinstance(error, GatedRepoError):
        rule, got = "be accessible to you", f"a gated repository (HTTP {status})"
        remedy = f"Accept its terms on its page, then {LOG_IN}."
    elif isinstance(error, RepositoryNotFoundError):
        rule, got = f"be a {kind} on the hub that you may read", f"none of that name, or a private one (HTTP {status})"
        got += no_folder(repository)
        remedy = f"Check the spelling; for a private repository {LOG_IN}."
    elif isinstance(error, RevisionNotFoundError):
        rule, got = "have the revision that was asked for", f"none called {revision or 'main'} (HTTP {status})"
        remedy = f"Correct {key.rsplit('.', 1)[0]}.revision, or pass hub.refresh=true if it moved."
        if revision and is_commit(revision):
            remedy = "It is misspelt, or its owner removed that commit: then a run that used it cannot be repeated."
    elif isinstance(error, RemoteEntryNotFoundError) or status == 404:
        rule, got = "hold every file it lists", f"a missing file (HTTP {status})"
        remedy = "Pass hub.refresh=true to take its current commit."
    elif status in (401, 403):
        rule, got = "be accessible to you", f"access refused (HTTP {status})"
        remedy = f"Ask for access on its page, then {LOG_IN}."
    elif isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        rule, got = "be in the cache when the hub is off (HF_HUB_OFFLINE=1)", f"{repository}, not all of it cached"
        remedy = "Run once with a connection and without HF_HUB_OFFLINE."
    elif isinstance(error, HFValidationError):
        rule, remedy = "be a hub id such as owner/name", "Correct it."
    elif isinstance(error, Mismatch):
        rule, remedy = "arrive as the hub announced it", "The damaged file was removed: run again."
    elif isinstance(error, HfHubHTTPError | httpx2.HTTPError) or is_of_xet(error):
        remedy = "Run again: partial downloads are kept and continued."
        got += no_folder(repository)
    elif isinstance(error, OSError) and error.errno == errno.EFBIG:
        rule, got = f"be within {SIZE_LIMIT}", "a larger file"
        remedy = "Raise the limit and run again: partial downloads are kept and continued."
    elif isinstance(error, OSError):
        rule, remedy = "fit on this disk and be writable", "Free some space, or set HF_HOME to another folder."
        got = errno.errorcode.get(error.errno or 0, type(error).__name__)
    elif isinstance(error, ValueError | KeyError):
        rule, remedy = "be answered by a hub", "Check HF_ENDPOINT and any proxy."
        got = f"an answer that is not a hub's ({got})"
    return HubError(must(thing, rule, got, f"{remedy} {OTHER_WAYS}"))
