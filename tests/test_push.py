"""What is uploaded of a run, and which runs are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_run import build

from pipeline.commands.push import push, stage_files
from pipeline.config.command_arguments import Publication
from pipeline.core.errors import ArtifactError, ConfigError, HubError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return build(tmp_path, "gooaq_bert_tiny")


def test_only_the_models_files_and_the_card_are_uploaded(run: Path, tmp_path: Path) -> None:
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    folder = stage_files(run, "me/reranker", tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"


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
