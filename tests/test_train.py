"""The TRAIN stage: no steps at all, shorter pairs, a damaged model, and a killed process."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from injected_faults import Killed
from tiny_run import measures, mined_set, only, run_tiny, sha256

from pipeline.commands.verification import verify
from pipeline.config.command_arguments import Verification
from pipeline.core import artifacts
from pipeline.engine import checkpoints
from pipeline.engine.model_config import own_max_length
from pipeline.stages.metrics_log import MetricsLog


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_zero_steps_without_eval_sets_writes_empty_log(own_outputs: Path) -> None:
    run = run_tiny(own_outputs, "training.max_steps=0", "training.eval_sets=[]", "training.keep_best=false")
    assert (run / "metrics.jsonl").read_text() == ""
    assert verify(Verification(run=str(run), outputs_dir=str(own_outputs))).verified


def test_zero_steps_evaluates_the_base_model(
    own_run: Path, own_outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ["training.max_steps=0", "training.eval_sets=[dev]", "training.keep_best=true", "training.selection_set=dev"]
    with caplog.at_level(logging.INFO, "pipeline"):
        untouched = run_tiny(own_outputs, *keys)
    assert untouched != own_run and run_tiny(own_outputs, *keys) == untouched
    for protocol in ("as_retrieved", "positives_added"):
        figures = measures(untouched)["dev"][protocol]
        assert figures["trained"] == figures["untrained"]
    summary = json.loads((untouched / "summary.json").read_text())
    assert summary["selection"] is None and summary["training"]["steps"] == 0
    table = " ".join(" ".join(caplog.messages).split())
    assert "No training step was taken (training.max_steps=0)" in table
    assert "speed" not in table and "pairs/s" not in table

    card = (untouched / "README.md").read_text()
    data = ModelCard(card).data
    assert data.model_name == "a random tiny BERT, not trained further" and data.eval_results
    assert data.tags == ["sentence-transformers", "cross-encoder", "text-classification"]
    for words in ("trained by this command", "### Training Dataset", "### Training Logs", "0.0 pairs/s", "finetuned"):
        assert words not in card
    assert "saved and measured by this command" in card and "- `training.max_steps`: 0" in card
    for text in (table, card):
        assert "its scoring head was drawn at random" in text and "as it is" not in text
    assert "with a scoring head drawn at random, saved in" in card

    again = run_tiny(own_outputs, *keys, "model=custom", f"model.path={own_run / 'model'}")
    card = (again / "README.md").read_text()
    assert "the model is the base model as it is" in card and " as it is, saved in" in card and "at random" not in card


def test_training_length_cuts_training_pairs_but_not_scored_pairs(
    own_run: Path, own_outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pipeline"):
        short = run_tiny(own_outputs, "training.max_length=16")
    last = [row for row in rows_of(short) if row["kind"] == "train"][-1]
    assert last["tokens"] <= 16 * last["pairs"]
    assert re.search(r"\d+ % of the rows are longer than training\.max_length=16 tokens and are cut there", caplog.text)
    assert own_max_length(short / "model") == own_max_length(own_run / "model") == 128
    assert "tokens, 16 in training (" in (short / "README.md").read_text()
    whole, cut = (measures(run)["dev"]["as_retrieved"]["untrained"] for run in (own_run, short))
    assert whole == cut, "scoring sees the whole pair"
    verdict = verify(Verification(run=str(short), outputs_dir=str(own_outputs)))
    assert verdict.verified, verdict


def test_damaged_model_is_made_again_from_its_checkpoint(
    own_run: Path, own_outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = own_run / "model" / "model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with caplog.at_level(logging.WARNING, "pipeline"):
        run_tiny(own_outputs, "stop_after=train")
    assert "made again" in caplog.text and "was altered" in caplog.text
    assert path.read_bytes() == good and artifacts.is_complete(own_run / "model")
    assert [row["step"] for row in rows_of(own_run)] == [1, 2, 3, 4, 5, 6]


def test_killed_training_resumes_to_the_same_weights(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = MetricsLog.update

    def dying(self: MetricsLog, rows: Any) -> None:
        update(self, rows)
        if rows and rows[-1]["step"] == 5:
            raise Killed

    shutil.copytree(finished_run.parents[1] / "cache", tmp_path / "cache")
    shutil.copytree(mined_set(finished_run), tmp_path / "mined" / mined_set(finished_run).name)
    monkeypatch.setattr(MetricsLog, "update", dying)
    with pytest.raises(Killed):
        run_tiny(tmp_path, "stop_after=train")
    run = only(tmp_path, f"runs/{finished_run.name}")
    assert checkpoints.steps(run / "checkpoints") == [3] and not (run / "model").exists()
    assert not (tmp_path / "latest").exists()
    monkeypatch.setattr(MetricsLog, "update", update)
    assert run_tiny(tmp_path, "stop_after=train") == run
    assert sha256(run / "model" / "model.safetensors") == sha256(finished_run / "model" / "model.safetensors")
    resumed, whole = ([row["loss"] for row in rows_of(folder)] for folder in (run, finished_run))
    assert resumed == whole and len(resumed) == 6
    assert json.loads((run / "model" / "training.json").read_text())["resumed_at"] == [3]
