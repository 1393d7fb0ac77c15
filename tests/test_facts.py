"""A run's facts: what is read of its files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_facts

from pipeline.core.errors import ArtifactError


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
