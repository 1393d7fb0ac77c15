"""Sentences for failures of the hub, from a real client in a process of its own, and for errors of Xet and the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from script_process import script_process

from pipeline.hub import failures

DRIVER = """
import sys
from pathlib import Path
import pipeline.hub.download
from pipeline.core.errors import HubError
from pipeline.hub.location import locate
pipeline.hub.download.WAITS_S = ()
for name in sys.argv[2:]:
    try:
        locate(name, None, kind="model", lock=Path(sys.argv[1]), key="model.path")
    except HubError as error:
        print(error)
"""
"""Prints the refusal of each model that cannot be located, after one attempt.

The client reads HF_ENDPOINT when imported, so each environment needs a process of its own.
"""


def refusals(folder: Path, root: Path, *models: str, **environment: str) -> list[str]:
    """Return the refusal of each model, in one line, for a command that runs in an empty folder."""
    given = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", DRIVER, str(folder / "lock.json"), *models]
    done = subprocess.run(command, cwd=folder, env=given | environment, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(models), done.stdout
    return lines


@pytest.mark.parametrize(
    ("fault", "got"),
    [
        ("no such repository", "or a private one (HTTP 401)"),
        ("no connection", "no connection"),
        ("offline", "modle, not cached"),
    ],
    ids=["no such repository", "no connection", "offline"],
)
def test_name_without_an_owner_is_refused_as_no_folder_either(tmp_path: Path, root: Path, fault: str, got: str) -> None:
    """A name such as `modle` is more likely a misspelt folder than a hub id; `acme/modle` is taken for an id."""
    models = ("modle", "acme/modle")
    hub = LoopbackHub()
    with hub.serving():
        if fault == "no such repository":
            bare, owned = refusals(tmp_path, root, *models, HF_ENDPOINT=hub.url)
    if fault != "no such repository":  # the server is gone
        offline = {"HF_HUB_OFFLINE": "1"} if fault == "offline" else {}
        bare, owned = refusals(tmp_path, root, *models, HF_ENDPOINT=hub.url, **offline)
    assert f"{got}, and no folder of that name here. " in bare
    assert f"{got}. " in owned and "no folder" not in owned


WHERE = "domain: http://127.0.0.1:80/api/models/a/b/xet-read-token/main"
XET_ERRORS = {
    "refused": ConnectionError(f"Network error: Request error: HTTP status client error (403 Forbidden), {WHERE}"),
    "busy": ConnectionError(f"Server error: HTTP status server error (503 Service Unavailable), {WHERE}"),
    "lost": ConnectionError("Network error: Request middleware error: error sending request for url (http://cas/v1)"),
}


def refusal_of(error: Exception) -> str:
    return str(failures.refusal(error, key="model.path", repository="a/b", kind="model", revision=None))


@pytest.mark.parametrize(
    ("name", "status", "is_transient"),
    [("refused", 403, False), ("busy", 503, True), ("lost", None, True)],
    ids=["refused", "busy", "lost"],
)
def test_status_of_a_xet_error_is_read_from_its_text(name: str, status: int | None, is_transient: bool) -> None:
    error = XET_ERRORS[name]
    assert (failures.status_of(error), failures.is_transient(error)) == (status, is_transient)


@pytest.mark.parametrize(
    "error",
    [*XET_ERRORS.values(), RuntimeError("Internal error: http://cas/v1 is no address")],
    ids=[*XET_ERRORS, "another error"],
)
def test_refusal_names_no_address(error: Exception) -> None:
    message = refusal_of(error)
    assert "http://" not in message and "fit on this disk" not in message


def test_refused_xet_request_names_the_remedy() -> None:
    assert "ask for access" in refusal_of(XET_ERRORS["refused"]).lower()


def test_file_size_limit_is_not_taken_for_a_full_disk() -> None:
    message = refusal_of(OSError(errno.EFBIG, "File too large"))
    assert "must be within the limit on a file's size (ulimit -f)" in message and "Raise the limit" in message
    assert "Free some space" not in message


def test_status_is_read_from_a_runtime_errors_words() -> None:
    refused = RuntimeError("Data processing error: HTTP status client error (401 Unauthorized) for url (https://cas)")
    busy = RuntimeError("Data processing error: HTTP status server error (503 Service Unavailable) for url (https://c)")
    assert [failures.status_of(error) for error in (refused, busy)] == [401, 503]
    assert [failures.is_transient(error) for error in (refused, busy)] == [False, True]
    assert failures.status_of(RuntimeError("no status")) is None


def test_masked_address_ends_at_its_bracket() -> None:
    error = ValueError("no answer for url (https://cas/v1?token=x) in time")
    assert failures.cause_of(error) == "no answer for url (<address>) in time"


def test_error_without_a_number_is_no_full_disk() -> None:
    def said(error: OSError) -> str:
        return str(failures.refusal(error, key="model.path", repository="a/b", kind="model", revision=None))

    assert "got I/O error: short read. Run again" in said(OSError("I/O error: short read"))
    assert "fit on this disk" in said(OSError(errno.ENOSPC, "No space left on device"))


def test_missing_commit_may_be_misspelt(tmp_path: Path) -> None:
    driver = """
import sys
from pathlib import Path
from pipeline.core.errors import HubError
from pipeline.hub.location import locate
try:
    locate("a/b", "0" * 40, kind="model", lock=Path(sys.argv[1]), key="model.path")
except HubError as error:
    print(error)
"""
    hub = LoopbackHub()
    hub.commit("model", "a/b", {"config.json": b"{}"})
    code = f"import sys; sys.argv = ['', {str(tmp_path / 'hub.lock.json')!r}]\n{driver}"
    with hub.serving(), script_process(tmp_path, HF_ENDPOINT=hub.url) as process:
        done = process.run("-c", code)
    assert "misspelt, or its owner removed that commit: then a run that used it cannot be repeated." in done.out, done
