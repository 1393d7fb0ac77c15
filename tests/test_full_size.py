"""The published architectures at their full size: a real step, a save, a reload, equal scores, within memory.

Slow: run with `-m slow`. Each runs as a process of its own, whose peak memory is read at its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / ".github" / "records" / "full_size.json"
LIMIT_GIB = 20

PUBLISHED: dict[str, dict[str, Any]] = {
    "bert_tiny": {"parameters": (4.3e6, 4.5e6), "layers": 2, "hidden_size": 128, "batch_size": 2048},
    "modernbert_large": {"parameters": (394e6, 397e6), "layers": 28, "hidden_size": 1024, "batch_size": 8},
}


def as_published(name: str, found: dict[str, Any]) -> None:
    expected = PUBLISHED[name]
    low, high = expected["parameters"]
    assert low < found["parameters"] < high
    assert {key: found[key] for key in ("layers", "hidden_size", "batch_size")} == {
        key: expected[key] for key in ("layers", "hidden_size", "batch_size")
    }
    assert found["step_changed_scores"] and found["reloaded_scores_are_equal"]
    assert 0.5 < found["loss"] < 3
    assert found["peak_rss_gib"] < LIMIT_GIB
    if name == "modernbert_large":
        assert found["classifier_pooling"] == "mean"
        assert found["local_attention"] == 128 < found["longest_pair_tokens"], "the window must matter"
        assert set(found["dropouts"].values()) == {0.0}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_step_at_full_size(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "tests/full_size.py", name, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    as_published(name, found)
    if name == "modernbert_large":
        assert found["layer_types"] == [
            "sliding_attention" if layer % 3 else "full_attention" for layer in range(found["layers"])
        ]


def test_the_record_holds_both_and_names_its_machine() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert [run["model"] for run in record["runs"]] == list(PUBLISHED)
    for run in record["runs"]:
        as_published(run["model"], run)
        assert run["step_seconds"] > 0
    assert {"cpu_model", "cpu_cores", "ram_gib"} <= set(record["machine"])
    assert "/" not in json.dumps(record["machine"])
