"""Provenance: commits are this checkout's, and nothing is needed from git."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.core import provenance


def _repository(folder: Path) -> Path:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True)

    (folder / "pipeline").mkdir(parents=True)
    (folder / "pipeline" / "code.py").write_text("a = 1\n")
    (folder / "notes.txt").write_text("one\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return folder


def test_commit_and_dirty_flag_follow_the_code_only(tmp_path: Path) -> None:
    root = _repository(tmp_path / "repo")
    clean = provenance.checkout(root)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (root / "notes.txt").write_text("two\n")
    assert provenance.checkout(root)["dirty"] is False
    (root / "pipeline" / "new.py").write_text("b = 2\n")
    assert provenance.checkout(root) == {"commit": clean["commit"], "dirty": True}


def test_a_folder_inside_another_repository_has_no_commit(tmp_path: Path) -> None:
    inner = _repository(tmp_path / "repo") / "pipeline"
    assert provenance.checkout(inner) == {"commit": None, "dirty": None}
    assert provenance.checkout(tmp_path) == {"commit": None, "dirty": None}


def test_without_git_there_is_still_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.checkout() == {"commit": None, "dirty": None}


def test_the_record_is_plain_json_and_holds_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_thisisasecretvalue")
    monkeypatch.setenv("SOME_LOGIN", "open-sesame-1234")
    record = provenance.record(["train.py", "hub.token=open-sesame-5678"], {"seed": 12, "model": {"name": "tiny"}})
    text = json.dumps(record, allow_nan=False)
    for secret in ("hf_thisisasecretvalue", "open-sesame"):
        assert secret not in text
    assert record["config"] == {"seed": 12, "model": {"name": "tiny"}}
    assert record["started_at"].endswith("+00:00")
    assert record["versions"]["torch"].startswith("2.")
    assert record["hardware"]["cpu_cores"] >= 1
    assert record["hardware"]["ram_gib"] > 0.5
    assert record["hardware"]["bf16_unit"] in ("AMX", "AVX512_BF16", None)
    assert record["threads"]["intra_op"] >= 1
