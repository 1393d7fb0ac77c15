"""A run's metrics.jsonl and its id with the tracker, on a finished run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tiny_run import run_tiny, snapshot, tiny_config

from pipeline.stages.metrics_log import MetricsLog
from pipeline.stages.plan import RunPlan


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 3}'])
def test_broken_tracking_record_is_made_again(
    own_run: Path, own_outputs: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = own_run / "tracking.json"
    path.write_text(text)
    for warned in (True, False):
        with caplog.at_level(logging.WARNING, "pipeline"):
            MetricsLog(RunPlan(tiny_config(own_outputs)))
        assert ("tracking.json holds no id" in caplog.text) == warned
        caplog.clear()
    assert json.loads(path.read_text())["id"].startswith(f"{own_run.name}-")


def test_torn_log_beside_a_finished_model_is_restored(own_run: Path, own_outputs: Path) -> None:
    before = snapshot(own_outputs)
    log = own_run / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:100])
    assert run_tiny(own_outputs) == own_run
    assert log.read_bytes() == (own_run / "model" / "metrics.jsonl").read_bytes()
    assert snapshot(own_outputs).keys() == before.keys()
