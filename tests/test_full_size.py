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
import torch
from full_size import GPU_LIMIT_BYTES, RTX3090_BYTES, gpu_steps
from hub_fixtures import modernbert

from pipeline.config.learning import Precision
from pipeline.core.atomic import write_json
from pipeline.engine.machine import gpu_tokens

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


def measured(name: str, work: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "tests/full_size.py", name, str(work)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_step_at_full_size(tmp_path: Path, name: str) -> None:
    found = measured(name, tmp_path)
    as_published(name, found)
    if name == "modernbert_large":
        assert found["layer_types"] == [
            "sliding_attention" if layer % 3 else "full_attention" for layer in range(found["layers"])
        ]


@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_twenty_steps_of_the_recipe_fit_an_rtx_3090(tmp_path: Path) -> None:
    """On a larger GPU too: the process is limited to what the RTX 3090 would give it."""
    found = measured("modernbert_large_gpu", tmp_path)
    low, high = PUBLISHED["modernbert_large"]["parameters"]
    assert low < found["parameters"] < high
    assert (found["steps"], found["batch_size"], found["precision"]) == (20, 64, "bf16")
    write_json(ROOT / "outputs" / "benchmarks" / "full_size_gpu.json", found)
    assert 45 < found["mean_pair_tokens"] < 120, "GooAQ's pairs"
    assert all(0.2 < loss < 4 for loss in found["losses"]) and len(set(found["losses"])) == 20
    assert 0 < found["peak_allocated_gib"] <= found["peak_reserved_gib"] <= GPU_LIMIT_BYTES / 2**30


@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_full_micro_batches_fit_an_rtx_3090(tmp_path: Path) -> None:
    """The recipe's own steps fill less than half of a micro-batch."""
    found = measured("modernbert_large_gpu_full", tmp_path)
    assert found["mean_pair_tokens"] * found["batch_size"] > 8192 == found["micro_batch_tokens"]
    assert 0 < found["peak_reserved_gib"] <= GPU_LIMIT_BYTES / 2**30


def test_the_gpu_measurement_trains_what_it_says_where_there_is_none(tmp_path: Path) -> None:
    found = gpu_steps(
        modernbert(tmp_path / "base"), tmp_path, torch.device("cpu"), precision=Precision.fp32,
        batch=4, count=3, length=128,
    )  # fmt: skip
    assert (found["steps"], found["batch_size"], len(found["losses"])) == (3, 4, 3)
    assert found["peak_reserved_gib"] is None and found["device"] == "cpu"
    assert 20 < found["mean_pair_tokens"] < 128
    # What an RTX 3090 gives 28 layers of 1,024.
    assert gpu_tokens(RTX3090_BYTES, 1024, 28) == 8192


def test_the_record_holds_both_and_names_its_machine() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert [run["model"] for run in record["runs"]] == list(PUBLISHED)
    for run in record["runs"]:
        as_published(run["model"], run)
        assert run["step_seconds"] > 0
    assert {"cpu_model", "cpu_cores", "ram_gib"} <= set(record["machine"])
    assert "/" not in json.dumps(record["machine"])
