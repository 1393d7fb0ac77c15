"""A run's facts: what is read of its files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_facts

from pipeline.core.atomic import write_json
from pipeline.core.errors import ArtifactError
from pipeline.reporting.facts import collect, read_log


@pytest.mark.parametrize("name", ["training.json", "metrics.jsonl", "model/emissions.json"])
def test_a_missing_or_broken_file_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(path: Path, content: str) -> None:
        original(path, content if not str(path).endswith(name) else "{broken")

    from pipeline.core import atomic

    original = atomic.write_text
    monkeypatch.setattr(atomic, "write_text", damaged)
    monkeypatch.setattr(run_facts, "write_text", damaged)
    with pytest.raises(ArtifactError, match=r"must be readable JSON"):
        run_facts.write(tmp_path)


def test_energy_is_read_of_every_stage_and_set_in_the_order_run(tmp_path: Path) -> None:
    run_facts.write(tmp_path)
    run, mined, rows = tmp_path / "run", tmp_path / "mined", run_facts.pairs()
    evaluations = {name: run / "evaluations" / name for name in ("NanoNQ", "gooaq-dev")}
    for number, folder in enumerate((mined, run / "model", *evaluations.values())):
        write_json(folder / "emissions.json", {"energy_kwh": number})
    facts = collect(run, mined, evaluations, run_facts.CONFIG, rows, len(rows), base_id=None, data_id=None)
    assert list(facts.measures) == list(evaluations)
    assert [(stage, record["energy_kwh"]) for stage, record in facts.emissions.items()] == [
        ("mine", 0), ("train", 1), ("evaluate NanoNQ", 2), ("evaluate gooaq-dev", 3),
    ]  # fmt: skip


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
