"""What is uploaded of a run, which runs are not, and uploads over Xet that fail or hang."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_client import ROOT, HubUser
from loopback_hub import TOKEN
from published_run import build
from script_process import script_process

from pipeline.commands import push as pushing
from pipeline.commands.push import push, stage_files
from pipeline.config.command_arguments import Publication
from pipeline.core.errors import ArtifactError, ConfigError, HubError

WEIGHTS = b"weights" * 1000
XET = {"HF_HUB_DISABLE_XET": "0", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_TOKEN": TOKEN}
"""The client's own settings, with one attempt at each request to Xet instead of minutes of them."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = build(tmp_path, "gooaq_bert_tiny")
    (folder / "model" / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def test_only_the_models_files_and_the_card_are_uploaded(run: Path, tmp_path: Path) -> None:
    folder = stage_files(run, "me/reranker", tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("repo", ["reranker", "a/b/c", "a/", "-"])
def test_a_repository_has_an_owner(repo: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="repo must read owner/name"):
        push(Publication(repo=repo, outputs_dir=str(tmp_path)))


def test_nothing_is_uploaded_offline(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="HF_HUB_OFFLINE must be unset to upload"):
        push(Publication(repo="me/reranker", outputs_dir=str(tmp_path)))


def test_an_unfinished_run_is_not_uploaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (run / "card" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"must be a finished, verified run, got: .*never completed"):
        push(Publication(repo="me/reranker", run=str(run)))


def test_failed_upload_over_xet_is_refused_without_an_address(run: Path, hub_user: HubUser) -> None:
    hub, errors = hub_user.hub, {}
    with script_process(hub_user.root, HF_ENDPOINT=hub.url, **XET) as process:
        for status in ("403", "404", "503"):
            hub.faults.clear()
            hub.play("*xet-write-token*", status)
            done = process.run("scripts/push.py", f"run={run}", "repo=tester/pushed")
            assert done.status == 2, done
            assert "127.0.0.1" not in done.out + done.err and "Traceback" not in done.err
            assert re.match(r"uploading gooaq\S+ to tester/pushed: 2 files, 7\.\d kB\n", done.err)
            errors[status] = done.err.splitlines()[-1]
    assert any("xet-write-token" in line for line in hub.requests), "Xet is on"
    assert errors["403"].startswith(
        "error: repo=tester/pushed must be a repository that you may write to, got no permission (HTTP 403). Log in"
    )
    for status in ("404", "503"):
        assert f"repo=tester/pushed must accept the upload, got HTTP {status}. Push again" in errors[status]


def test_hanging_upload_over_xet_ends_on_sigterm(run: Path, hub_user: HubUser) -> None:
    hub_user.hub.play("*xet-write-token*", "hang")
    command = [sys.executable, "scripts/push.py", f"run={run}", "repo=tester/hanging"]
    environment = hub_user.environment(HF_HUB_DOWNLOAD_TIMEOUT="60", **XET)
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not any("xet-write-token" in line for line in hub_user.hub.requests):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 75 and "interrupted: " in err


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("review"), "gooaq_bert_tiny")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("I/O error: no route to https://cas/v1?token=x"), "got I/O error: no route to <address>. Push again"),
        (PermissionError("denied by the transfer library"), "got denied by the transfer library. Push again"),
        (
            RuntimeError("Data processing error: HTTP status client error (403 Forbidden) for url (https://cas/v1)"),
            "got no permission (HTTP 403). Log in",
        ),
    ],
    ids=["input or output", "no number", "status"],
)
def test_xet_error_without_a_number_is_refused(
    published: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pushing.HfApi, "create_repo", lambda *_, **__: None)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pushing.HfApi, "upload_folder", fail)
    with pytest.raises(HubError) as refused:
        push(Publication(repo="me/reranker", run=str(published)))
    assert said in str(refused.value)


def test_system_error_during_a_push_is_not_refused(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pushing.HfApi, "create_repo", full)
    with pytest.raises(OSError, match="No space left"):
        push(Publication(repo="me/reranker", run=str(published)))
