"""A run's facts: what is read of its files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_facts

from pipeline.core.errors import ArtifactError


def test_names_on_the_hub_are_told_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = run_facts.write(tmp_path)
    assert (facts.base_id, facts.data_id) == ("prajjwal1/bert-tiny", "sentence-transformers/gooaq")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prajjwal1" / "bert-tiny").mkdir(parents=True)
    local = {**run_facts.CONFIG, "data": {**run_facts.CONFIG["data"], "source": "local"}}
    facts = run_facts.write(tmp_path, config=local)
    assert (facts.base_id, facts.data_id) == (None, None)


@pytest.mark.parametrize("name", ["training.json", "metrics.jsonl", "train/emissions.json"])
def test_a_missing_or_broken_file_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(path: Path, content: str) -> None:
        original(path, content if not str(path).endswith(name) else "{broken")

    from pipeline.core import artifacts

    original = artifacts.write_text
    monkeypatch.setattr(artifacts, "write_text", damaged)
    monkeypatch.setattr(run_facts, "write_text", damaged)
    with pytest.raises(ArtifactError, match=r"must be readable JSON"):
        run_facts.write(tmp_path)
