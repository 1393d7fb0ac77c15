"""Downloads from a real HTTP server that plays faults: retried, continued, checked; or refused in one sentence."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_client import FILES, HubUser, content
from loopback_hub import TOKEN, LoopbackHub

# Faults

# What goes wrong: (where, what, how often); then words of the refusal, or None where it must succeed.
FAULTS: dict[str, tuple[str, str, int | None, tuple[str, ...] | None]] = {
    "no-such-repository": ("GET /api/*", "gone", None, ("HTTP 404", "spelling")),
    "private": ("GET /api/*", "private", None, ("private", "hf auth login", "HF_TOKEN")),
    "gated": ("* */resolve/*", "gated", None, ("gated", "terms", "hf auth login")),
    "forbidden": ("GET /api/*", "403", None, ("HTTP 403", "hf auth login")),
    "file-lost": ("* */resolve/*/model.safetensors", "404", None, ("missing file", "hub.refresh=true")),
    "api-429-twice": ("GET /api/*", "429", 2, None),
    "api-503-twice": ("GET /api/*", "503", 2, None),
    "tree-503-twice": ("GET /api/*/tree/*", "503", 2, None),
    "head-503-twice": ("HEAD *", "503", 2, None),
    "get-429-twice": ("GET */resolve/*/model.safetensors", "429", 2, None),
    "get-503-twice": ("GET */resolve/*/model.safetensors", "503", 2, None),
    "small-get-503-twice": ("GET */resolve/*/config.json", "503", 2, None),
    "get-503-always": ("GET */resolve/*/model.safetensors", "503", None, ("HTTP 503", "Run again")),
    "cut-once": ("GET */resolve/*/model.safetensors", "cut", 1, None),
    "cut-thrice": ("GET */resolve/*/model.safetensors", "cut", 3, None),
    "cut-always": ("GET */resolve/*/model.safetensors", "cut", None, ("broke off", "kept and continued")),
    "small-cut-always": ("GET */resolve/*/config.json", "cut", None, ("broke off", "kept and continued")),
    "size-once": ("GET */resolve/*/model.safetensors", "size", 1, None),
    "size-always": ("GET */resolve/*/model.safetensors", "size", None, ("64000 bytes", "announced 128000")),
    "corrupt-once": ("GET */resolve/*/model.safetensors", "corrupt", 1, None),
    "corrupt-always": ("GET */resolve/*/model.safetensors", "corrupt", None, ("sha256", "removed")),
    "stall-once": ("GET */resolve/*/model.safetensors", "stall", 1, None),
    "api-hang-once": ("GET /api/*", "hang", 1, None),
    "tree-hang-once": ("GET /api/*/tree/*", "hang", 1, None),
    "hang-always": ("GET /api/*", "hang", None, ("stalled", "Run again")),
}


@dataclass
class Outcome:
    """What a fault's case gave: amid the fault, after it, with the server gone, and with HF_HUB_OFFLINE=1."""

    first: dict[str, Any]
    again: dict[str, Any]
    gone: dict[str, Any]
    offline: dict[str, Any]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    cases = [{"path": f"acme/{name}"} for name in FAULTS]
    with LoopbackHub().serving() as hub:
        user = HubUser(tmp_path_factory.mktemp("faults"), hub)
        for name, (where, play, times, _) in FAULTS.items():
            hub.commit("model", f"acme/{name}", FILES)
            method, _, path = where.partition(" ")
            head, star, tail = path.partition("*")
            # "GET /api/*" becomes "GET /api/*acme/<name>*": each case breaks its own repository only.
            hub.play(f"{method} {head}*acme/{name}{tail if star else ''}*", play, times)
        first = user.locate(*cases)
        for fault in hub.faults:
            assert fault.played > 0, f"{fault} was never played: the case tests nothing"
        hub.faults.clear()
        again = user.locate(*cases)
    gone, offline = user.locate(*cases), user.locate(*cases, HF_HUB_OFFLINE="1")
    return dict(zip(FAULTS, map(Outcome, first, again, gone, offline), strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_overcome_or_refused_in_one_sentence(outcomes: dict[str, Outcome], name: str) -> None:
    words, first = FAULTS[name][3], outcomes[name].first
    if words is None:
        assert first["error"] is None
        assert content(first["folder"]) == FILES
        return
    assert first["type"] == "HubError"
    assert "\n" not in first["error"] and "127.0.0.1" not in first["error"]
    for word in (*words, f"acme/{name}", "experiment=quickstart", "HF_HUB_OFFLINE=1"):
        assert word in first["error"]


@pytest.mark.parametrize("name", FAULTS)
def test_next_run_after_a_fault_succeeds(outcomes: dict[str, Outcome], name: str) -> None:
    again = outcomes[name].again
    assert again["error"] is None
    assert content(again["folder"]) == FILES
    assert not list(Path(again["folder"]).parents[1].glob("blobs/*.resumable"))


@pytest.mark.parametrize("name", FAULTS)
def test_later_run_needs_no_server(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.gone == outcome.offline == outcome.again


def test_uncached_repository_without_a_server_is_refused(tmp_path: Path) -> None:
    with LoopbackHub().serving() as hub:
        user = HubUser(tmp_path, hub)
    (gone,) = user.locate({"path": "acme/model"})
    assert "no connection" in gone["error"] and "experiment=quickstart" in gone["error"]
    (offline,) = user.locate({"path": "acme/model"}, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE=1" in offline["error"] and "not cached" in offline["error"]
    assert "experiment=quickstart" in offline["error"]


# Interrupted and parallel downloads


def test_killed_download_is_continued(hub_user: HubUser) -> None:
    big = bytes(range(256)) * 8192  # 2 MiB
    hub_user.hub.commit("model", "acme/big", {**FILES, "model.safetensors": big})
    fault = hub_user.hub.play("GET */resolve/*/model.safetensors", "stall")
    process = hub_user.start({"path": "acme/big"}, HF_HUB_DOWNLOAD_TIMEOUT="30")
    blobs = hub_user.root / "home" / "hub" / "models--acme--big" / "blobs"
    for _ in range(600):
        if any(part.stat().st_size >= len(big) // 4 for part in blobs.glob("*.resumable")):
            break
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.communicate()
    assert fault.played == 1
    # What had been received but not yet written died with the process.
    written = max(part.stat().st_size for part in blobs.glob("*.resumable"))
    assert len(big) // 4 <= written <= len(big) // 2
    hub_user.hub.faults.clear()
    hub_user.hub.ranges.clear()
    (found,) = hub_user.locate({"path": "acme/big"})
    assert content(found["folder"])["model.safetensors"] == big
    assert [line.split()[1] for line in hub_user.hub.ranges] == [f"bytes={written}-"]


def test_two_processes_download_a_file_once(hub_user: HubUser) -> None:
    hub_user.hub.commit("model", "acme/model", {**FILES, "model.safetensors": os.urandom(6 * 2**20)})
    processes = [hub_user.start({"path": "acme/model"}) for _ in range(2)]
    first, second = (hub_user.finish(process) for process in processes)
    assert first == second and first[0]["error"] is None
    requests = [line for line in hub_user.hub.requests if line.startswith("GET") and "model.safetensors" in line]
    assert len(requests) == 1


def test_refusal_of_one_file_stops_the_retries_of_others(hub_user: HubUser) -> None:
    hub_user.hub.commit("model", "acme/model", FILES)
    stall = hub_user.hub.play("GET */resolve/*/model.safetensors", "stall")
    # The refusal comes while the other download stalls: after the first request's time limit of a second.
    hub_user.hub.play("HEAD */resolve/*/config.json", "hang", 1)
    hub_user.hub.play("* */resolve/*/config.json", "gated")
    (refused,) = hub_user.locate({"path": "acme/model"}, HF_HUB_DOWNLOAD_TIMEOUT="3")
    assert "gated" in refused["error"]
    assert stall.played == 1, "one attempt, not five"


@pytest.mark.parametrize("where", ["HEAD */resolve/*", "GET */resolve/*"])
def test_ctrl_c_ends_a_wait_before_a_retry(hub_user: HubUser, where: str) -> None:
    hub_user.hub.commit("model", "owner/busy", FILES)
    hub_user.hub.play(where, "503")
    code = (
        "import logging, signal, sys; from pathlib import Path; logging.basicConfig(level=logging.WARNING)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "from pipeline.hub import download, location; download.WAITS_S = (60.0,)\n"
        "location.locate('owner/busy', None, kind='model', lock=Path(sys.argv[1]), key='k')"
    )
    words = [sys.executable, "-c", code, str(hub_user.lock)]
    with subprocess.Popen(words, env=hub_user.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            while "trying again in 60 s" not in (line := process.stderr.readline()):
                assert line, "it ended before"
            process.send_signal(signal.SIGINT)
            assert "KeyboardInterrupt" in process.communicate(timeout=15)[1]
        finally:
            process.kill()


# Progress


def test_large_download_shows_progress_on_a_terminal_only(hub_user: HubUser) -> None:
    big = {**FILES, "model.safetensors": bytes(9 * 2**20)}
    for name in ("watched", "logged"):
        hub_user.hub.commit("model", f"acme/{name}", big)
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    process = hub_user.start({"path": "acme/watched"}, stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
        while piece := os.read(screen, 65536):
            shown += piece
    os.close(screen)
    assert hub_user.finish(process)[0]["error"] is None
    assert b"model.safetensors: 100%" in shown and b"9.44M/9.44M" in shown and b"config.json: " not in shown
    hub_user.locate({"path": "acme/logged"})
    assert "model.safetensors: " not in hub_user.logs[-1]


# Tokens


def test_token_is_sent_but_never_written_or_printed(hub_user: HubUser) -> None:
    hub_user.hub.commit("model", "acme/model", FILES)
    hub_user.hub.commit("model", "acme/closed", FILES)
    hub_user.hub.play("* */acme/closed*", "gated")
    hub_user.hub.play("GET */acme/model/resolve/*/model.safetensors", "503", 1)
    results = hub_user.locate({"path": "acme/model"}, {"path": "acme/closed"}, HF_TOKEN=TOKEN)
    assert results[0]["error"] is None and "gated" in results[1]["error"]
    sent = {line for line, header in hub_user.hub.authorizations if header == f"Bearer {TOKEN}"}
    assert any(line.startswith("GET /acme/model/resolve") for line in sent)
    assert all(TOKEN not in log for log in hub_user.logs)
    files = [path for path in hub_user.root.rglob("*") if path.is_file()]
    assert hub_user.lock in files
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_token_is_not_sent_to_the_origin_of_large_files(hub_user: HubUser) -> None:
    hub_user.hub.redirects = True
    hub_user.hub.commit("model", "acme/model", FILES)
    hub_user.hub.play("GET /cdn/*", "503", 1)
    hub_user.hub.play("GET /cdn/*", "cut", 1)
    (found,) = hub_user.locate({"path": "acme/model"}, HF_TOKEN=TOKEN)
    assert content(found["folder"]) == FILES
    headers = {header for line, header in hub_user.hub.authorizations if line.startswith("GET /cdn/")}
    assert headers == {""}
    assert [line.split()[1] for line in hub_user.hub.ranges if line.startswith("/cdn/")] == ["bytes=64000-"]
