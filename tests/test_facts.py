"""A run's facts: what is read of its files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_facts

from pipeline.core.errors import ArtifactError
from pipeline.reporting.facts import read_log


@pytest.mark.parametrize("name", ["training.json", "metrics.jsonl", "train/emissions.json"])
def test_a_missing_or_broken_file_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(path: Path, content: str) -> None:
        original(path, content if not str(path).endswith(name) else "{broken")

    from pipeline.core import atomic

    original = atomic.write_text
    monkeypatch.setattr(atomic, "write_text", damaged)
    monkeypatch.setattr(run_facts, "write_text", damaged)
    with pytest.raises(ArtifactError, match=r"must be readable JSON"):
        run_facts.write(tmp_path)


def test_a_torn_log_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n\n{"kind": "tra')
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl, line 3, must be readable JSON, got .*Run the training"):
        read_log(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl must be readable JSON, got "):
        read_log(path)
    with pytest.raises(ArtifactError, match=r"absent\.jsonl must be readable JSON, got "):
        read_log(tmp_path / "absent.jsonl")


def test_a_log_of_whole_rows_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n\n{"step": 2}\n')
    assert read_log(path) == [{"step": 1}, {"step": 2}]
