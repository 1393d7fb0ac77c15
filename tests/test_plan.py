"""The names of a run's folders: which keys and which content decide them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import local_pairs, measures, mined_set, run_tiny, sha256, snapshot, tiny_config

from pipeline.core.errors import ConfigError
from pipeline.hub import location
from pipeline.stages.plan import RunPlan
from pipeline.stages.run import run


def test_runtime_and_tracking_keys_change_no_name(own_run: Path, own_outputs: Path) -> None:
    before = snapshot(own_outputs)
    keys = ["runtime.micro_batch_tokens=999", "emissions=default", "tracking.project=other"]
    assert run_tiny(own_outputs, *keys) == own_run
    assert snapshot(own_outputs) == before


@pytest.mark.parametrize("override", ["mining.negatives=2", "mining.seed=13", "data.split_seed=13"])
def test_each_mining_setting_gets_its_own_folder(own_run: Path, own_outputs: Path, override: str) -> None:
    old = mined_set(own_run)
    assert run(tiny_config(own_outputs, override, "stop_after=mine")) is None
    (new,) = {path.parent for path in (own_outputs / "mined").glob("*/manifest.json")} - {old}
    differ = sha256(new / "train" / "passage.npy") != sha256(old / "train" / "passage.npy")
    same_dev = sha256(new / "dev" / "queries.parquet") == sha256(old / "dev" / "queries.parquet")
    assert differ and same_dev is (not override.startswith("data"))


def test_local_pairs_are_named_by_their_content_not_their_place(own_outputs: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    folder = run_tiny(own_outputs, *local_pairs(path))
    figures = measures(folder)["dev"]["as_retrieved"]
    assert figures["first_stage"]["ndcg@10"] > 0.5, "the answers hold their questions' words"
    assert (folder / "README.md").read_text().startswith("---\n")
    before = snapshot(own_outputs)
    assert run_tiny(own_outputs, *local_pairs(path)) == folder and snapshot(own_outputs) == before
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / path.name)
    assert run_tiny(own_outputs, *local_pairs(moved)) == folder and snapshot(own_outputs) == before
    renamed = moved.rename(tmp_path / "renamed.JSONL")
    assert run_tiny(own_outputs, *local_pairs(renamed)) == folder
    assert "trained on renamed.JSONL\n" in (folder / "README.md").read_text()
    kept = {name: time for name, time in before.items() if "/card/" not in name and "/model/" in name}
    assert len(kept) > 5 and kept.items() <= snapshot(own_outputs).items(), "the card alone is made again"
    assert run_tiny(own_outputs, *local_pairs(path, 129), "stop_after=train") != folder


@pytest.mark.parametrize("name", ["dev", "validation", "NanoNQ"])
def test_collection_with_the_name_of_another_set_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    plan = RunPlan(tiny_config(tmp_path / "outputs", f"evaluation.collections=[{tmp_path / name}]"))
    with pytest.raises(ConfigError, match=f"evaluation.collections must be folders with names that .*got '{name}'"):
        _ = plan.collections


def test_collection_of_the_hub_is_named_by_its_id_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "0123456789ab"  # as the cache keeps it
    folder.mkdir()
    located = location.Located(folder, {"hub": "BeIR/SciFact", "commit": folder.name}, "")
    monkeypatch.setattr(RunPlan, "_locate", lambda *_: located)
    plan = RunPlan(tiny_config(tmp_path / "outputs", "evaluation.collections=[BeIR/SciFact]"))
    assert list(plan.collections) == ["SciFact"]
