"""Each check before a run, passed and failed; all of them against a hub are in test_hub_commands."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from composed_config import composed

from pipeline.commands import preflight
from pipeline.commands.estimates import Size
from pipeline.commands.preflight import (
    FAIL,
    OK,
    WARN,
    Finding,
    _device,
    _disk,
    _expected_time,
    _memory,
    _precision,
)
from pipeline.config.data import Retriever, Source
from pipeline.config.learning import Precision
from pipeline.config.runtime import Device, RuntimeConfig
from pipeline.config.schema import Config
from pipeline.core.errors import ResourceError

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
HUGE = Size(10**15, 10**15)
TINY = Size(10**6, 10**3)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return composed("experiment=gooaq_bert_tiny", f"outputs_dir={tmp_path / 'outputs'}")


def test_time_is_not_measured_if_memory_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("experiment=smoke", f"outputs_dir={tmp_path / 'outputs'}")
    monkeypatch.setattr(preflight.estimates, "size_of", lambda config: HUGE)
    monkeypatch.setattr(preflight.estimates, "hours", lambda *_: pytest.fail("it takes memory that is not there"))
    found = {finding.what: finding.status for finding in preflight.check(config)}
    assert found["memory"] == FAIL and "time" not in found


def test_too_little_memory_or_disk_fails(config: Config) -> None:
    assert _memory(TINY, CPU).status == OK
    assert _memory(HUGE, CPU).status == FAIL and "Close other programs" in _memory(HUGE, CPU).said
    assert [finding.status for finding in _disk(config, 0, TINY)] == [OK]
    cache, outputs = _disk(config, 10**18, HUGE)
    assert (cache.status, outputs.status) == (FAIL, FAIL)
    assert "HF_HOME" in cache.said and "outputs_dir=" in outputs.said


@pytest.mark.parametrize(("same_disk", "status"), [(True, FAIL), (False, OK)], ids=["one disk", "two disks"])
def test_cache_and_outputs_on_one_disk_must_fit_together(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_disk: bool, status: str
) -> None:
    monkeypatch.setattr(preflight.constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 * 10**9))
    if not same_disk:
        monkeypatch.setattr(preflight, "_device_number", lambda folder: hash(folder))
    cache, outputs = _disk(config, 4 * 10**9, TINY)  # with 2 GB and a little for outputs
    assert (cache.status, outputs.status) == (OK, status)
    assert ("and 4.0 GB to download to the same disk" in outputs.said) == same_disk


def test_run_of_days_warns(config: Config) -> None:
    config = replace(config, training=replace(config.training, precision=Precision.fp32))  # fast on every CPU
    assert "for 600,000 pairs (within a factor of two; without mining)" in _expected_time(config, TINY, CPU).said
    assert _expected_time(config, TINY, CPU).status == OK and "less if" not in _expected_time(config, TINY, CPU).said
    own = composed("model=bert_tiny", "data=local", "data.path=pairs.jsonl", "training=small")
    assert _expected_time(own, TINY, CPU).said.endswith("; less if the data, which is not read here, yields fewer")
    found = _expected_time(config, HUGE, CPU)
    assert found.status == WARN and "size=tiny" in found.said


def test_local_files_and_folders_must_exist(config: Config, tmp_path: Path) -> None:
    present, gone = str(tmp_path), str(tmp_path / "gone")
    data = replace(config.data, source=Source.local, path=present, dev_path=gone)
    mining = replace(config.mining, retriever=Retriever.run, path=gone, revision=None)
    evaluation = replace(config.evaluation, nano_beir=[], collections=[present, gone], rivals=[gone])
    model = replace(config.model, path=present)
    found = preflight.check(replace(config, data=data, mining=mining, evaluation=evaluation, model=model))
    local = ("data", "run", "collection", "rival")
    assert [(finding.what, finding.status) for finding in found if finding.what in local] == [
        ("data", OK), ("data", FAIL), ("run", FAIL), ("collection", OK), ("collection", FAIL), ("rival", FAIL)
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_gpu_fails_if_required_and_warns_otherwise(config: Config) -> None:
    _, found = _device(replace(config, runtime=RuntimeConfig(device=Device.cuda)))
    assert found.status == FAIL and "runtime=cpu" in found.said
    _, found = _device(config)
    assert found.status == WARN and "sees no GPU" in found.said
    _, found = _device(replace(config, runtime=RuntimeConfig(device=Device.cpu)))
    assert found.status == OK


def test_slow_bf16_warns(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = _precision(config, CPU)
    assert (
        found.status == WARN and "neither AMX nor AVX512_BF16" in found.said and "training.precision=fp32" in found.said
    )
    plain = replace(config, training=replace(config.training, precision=Precision.fp32))
    found = _precision(plain, CPU)
    assert found.status == WARN and "Pass evaluation.precision=fp32, which" in found.said, "the recipe scores in bf16"
    plain = replace(plain, evaluation=replace(plain.evaluation, precision=Precision.fp32))
    assert _precision(plain, CPU) == Finding(OK, "precision", "fp32 (as configured)")
    apart = replace(plain, evaluation=replace(plain.evaluation, precision=Precision.auto))
    monkeypatch.setattr(preflight.processor, "bf16_unit", lambda: "AMX")
    assert _precision(apart, CPU).said == "fp32 (as configured); evaluation bf16 (the CPU has AMX)"


def test_report_raises_an_error_that_names_the_failed_checks(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    lines = [Finding(OK, "login", "as me"), Finding(FAIL, "memory", "none. Buy some")]
    monkeypatch.setattr(preflight, "check", lambda _: lines)
    with pytest.raises(ResourceError, match="every check must pass before a run, got memory"):
        preflight.report(config)
    assert caplog.messages == ["OK    login        as me\nFAIL  memory       none. Buy some"]
    lines.pop()
    preflight.report(config)
    assert caplog.messages[1:] == ["OK    login        as me"]
