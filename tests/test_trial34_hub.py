"""What a researcher's trial through the loopback hub found; each group belongs into the test file of its module."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import TOKEN, LoopbackHub
from published_run import build
from script_process import ROOT, script_process

from pipeline.core.console import counted, in_bytes
from pipeline.hub import failures

# --- push ---

XET = {"HF_HUB_DISABLE_XET": "0", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_TOKEN": TOKEN}
"""The client's own settings, with one attempt at each request to Xet instead of minutes of them."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build(tmp_path_factory.mktemp("push"), "gooaq_bert_tiny")
    (run / "model" / "model.safetensors").write_bytes(b"weights" * 1000)
    return run


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub().serving() as hub:
        yield hub


def test_a_push_over_xet_that_fails_is_one_sentence_without_an_address(
    finished: Path, hub: LoopbackHub, tmp_path: Path
) -> None:
    said = {}
    with script_process(tmp_path, HF_ENDPOINT=hub.url, **XET) as process:
        for play in ("403", "404", "503"):
            hub.faults.clear()
            hub.play("*xet-write-token*", play)
            done = process.run("scripts/push.py", f"run={finished}", "repo=tester/pushed")
            assert done.status == 2, done
            assert "127.0.0.1" not in done.out + done.err and "Traceback" not in done.err
            assert re.match(r"uploading gooaq\S+ to tester/pushed: 2 files, 7\.\d kB\n", done.err)
            said[play] = done.err.splitlines()[-1]
    assert any("xet-write-token" in line for line in hub.requests), "Xet is on"
    assert said["403"].startswith(
        "error: repo=tester/pushed must be a repository that you may write to, got no permission (HTTP 403). Log in"
    )
    for play in ("404", "503"):
        assert f"repo=tester/pushed must accept the upload, got HTTP {play}. Push again" in said[play]


def test_a_push_that_hangs_ends_at_once_when_asked_to(finished: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.clear()
    hub.play("*xet-write-token*", "hang")
    command = [sys.executable, "scripts/push.py", f"run={finished}", "repo=tester/hanging"]
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, **XET}
    asked = len(hub.requests)
    with subprocess.Popen(
        command, env={**environment, "PYTHONPATH": str(ROOT)}, cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        while not any("xet-write-token" in line for line in hub.requests[asked:]):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 75 and "interrupted: " in err


# --- failures ---


def test_an_error_of_xet_is_told_by_its_status_and_never_by_its_address() -> None:
    where = "domain: http://127.0.0.1:80/api/models/a/b/xet-read-token/main"
    refused = ConnectionError(f"Network error: Request error: HTTP status client error (403 Forbidden), {where}")
    busy = ConnectionError(f"Server error: Request error: HTTP status server error (503 Service Unavailable), {where}")
    lost = ConnectionError("Network error: Request middleware error: error sending request for url (http://cas/v1)")
    assert [failures.status_of(error) for error in (refused, busy, lost)] == [403, 503, None]
    assert [failures.is_transient(error) for error in (refused, busy, lost)] == [False, True, True]
    for error in (refused, busy, lost, RuntimeError("Internal error: http://cas/v1 is no address")):
        said = str(failures.refusal(error, key="model.path", repository="a/b", kind="model", revision=None))
        assert "http://" not in said and "fit on this disk" not in said
    assert "ask for access" in str(
        failures.refusal(refused, key="model.path", repository="a/b", kind="model", revision=None)
    ).lower()  # fmt: skip


def test_a_limit_on_a_files_size_is_not_a_full_disk() -> None:
    error = OSError(errno.EFBIG, "File too large")
    said = str(failures.refusal(error, key="model.path", repository="a/b", kind="model", revision=None))
    assert "must be within the limit on a file's size (ulimit -f)" in said and "Raise the limit" in said
    assert "Free some space" not in said


# --- console ---


def test_bytes_are_in_the_unit_that_suits_them() -> None:
    assert [in_bytes(size) for size in (0, 512, 24_600, 4.2e6, 1.25e12)] == [
        "0 bytes", "512 bytes", "24.6 kB", "4.2 MB", "1,250.0 GB",
    ]  # fmt: skip


def test_a_number_goes_with_its_noun() -> None:
    assert [counted(1, "thread"), counted(2, "thread"), counted(1234, "query", "queries")] == [
        "1 thread", "2 threads", "1,234 queries",
    ]  # fmt: skip
