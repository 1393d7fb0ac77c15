"""Each finding at both of its ends; the whole check against a hub is in test_hub_commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from full_size import BERT_TINY, MODERNBERT_LARGE
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from pipeline.commands import preflight
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
    _Size,
    _size,
)
from pipeline.config.data import Retriever, Source
from pipeline.config.learning import Precision
from pipeline.config.machine import Device, RuntimeConfig
from pipeline.config.schema import Config, parse, register
from pipeline.core.errors import ResourceError

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
HUGE = _Size(10**15, 10**15)
TINY = _Size(10**6, 10**3)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return parse(compose("config", overrides=["experiment=gooaq_bert_tiny", f"outputs_dir={tmp_path / 'outputs'}"]))


def with_model(config: Config, folder: Path, published: dict[str, Any], kind: str) -> Config:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**published, **({"model_type": kind} if kind else {})}))
    return replace(config, model=replace(config.model, path=str(folder)))


@pytest.mark.parametrize(
    ("published", "kind", "parameters"),
    [(BERT_TINY, "", 4_386_049), (MODERNBERT_LARGE, "modernbert", 395_832_321)],
    ids=["bert-tiny", "modernbert-large"],
)
def test_a_models_size_follows_from_its_configuration(
    config: Config, tmp_path: Path, published: dict[str, Any], kind: str, parameters: int
) -> None:
    size = _size(with_model(config, tmp_path / "model", published, kind))
    assert size.parameters == pytest.approx(parameters, rel=0.03)  # parameters as the full-size step counted them
    assert size.encoder < size.parameters


def test_memory_and_disk_that_do_not_suffice_fail(config: Config) -> None:
    assert _memory(TINY, CPU).status == OK
    assert _memory(HUGE, CPU).status == FAIL and "Close other programs" in _memory(HUGE, CPU).said
    assert [finding.status for finding in _disk(config, 0, TINY)] == [OK]
    cache, outputs = _disk(config, 10**18, HUGE)
    assert (cache.status, outputs.status) == (FAIL, FAIL)
    assert "HF_HOME" in cache.said and "outputs_dir=" in outputs.said


def test_a_time_of_days_warns(config: Config) -> None:
    config = replace(config, training=replace(config.training, precision=Precision.fp32))  # fast on every CPU
    assert "for 600,000 pairs" in _expected_time(config, TINY, CPU).said
    assert _expected_time(config, TINY, CPU).status == OK
    found = _expected_time(config, HUGE, CPU)
    assert found.status == WARN and "size=tiny" in found.said


def test_training_on_shorter_pairs_takes_less_time(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_share", lambda device, precision: 0.5)
    training = 6 * TINY.encoder * preflight.PAIR_TOKENS * 600_000
    twice_too_long = training / (0.5 * 2 * preflight.LONG_HOURS * 3600)
    monkeypatch.setattr(preflight, "_rate", lambda device, precision: twice_too_long)
    for length, status in ((None, WARN), (75, WARN), (16, OK)):
        training_alone = replace(config.training, max_length=length, eval_sets=[], keep_best=False, selection_set=None)
        shorter = replace(config, training=training_alone, evaluation=replace(config.evaluation, nano_beir=[]))
        assert _expected_time(shorter, TINY, CPU).status == status


def test_only_the_sets_of_the_fixed_steps_count_at_each(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_rate", lambda device, precision: 1e12)
    monkeypatch.setattr(preflight, "_share", lambda device, precision: 0.5)
    monkeypatch.setattr(preflight, "duration", lambda seconds: f"{seconds:.6f}")
    data = replace(config.data, rows=1000, dev_queries=100, validation_queries=10)
    evaluation = replace(config.evaluation, nano_beir=["nq"])
    pair = 2 * TINY.encoder * preflight.PAIR_TOKENS / (0.5 * 1e12)
    dev, validation, nano = 100 * 31, 10 * 31, 50 * 101
    for sets, a_round in (([], 0), (["validation"], validation), (["dev", "nano_beir"], dev + nano)):
        fixed = {"eval_sets": sets, "eval_steps": 1, "keep_best": False, "selection_set": None}
        training = replace(config.training, max_steps=2, **fixed)
        trained = 3 * min(2 * training.batch_size, 6_000)
        said = _expected_time(replace(config, data=data, evaluation=evaluation, training=training), TINY, CPU).said
        expected = pair * (trained + 3 * a_round + 2 * (dev + nano))
        assert float(said.split()[1]) == pytest.approx(expected, rel=1e-3)


def test_the_share_of_the_rate_goes_by_what_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.reproducibility, "bf16_unit", lambda: "AMX")
    shares = [preflight._share(CPU, precision) for precision in (Precision.bf16, Precision.fp32)]
    assert shares == [preflight.AMX_SHARE, preflight.CPU_SHARE]
    monkeypatch.setattr(preflight.reproducibility, "bf16_unit", lambda: "AVX512_BF16")
    assert preflight._share(CPU, Precision.bf16) == preflight.CPU_SHARE
    assert preflight._share(torch.device("cuda"), Precision.bf16) == preflight.GPU_SHARE


def test_files_and_folders_of_the_users_own_are_looked_for(config: Config, tmp_path: Path) -> None:
    there, gone = str(tmp_path), str(tmp_path / "gone")
    data = replace(config.data, source=Source.local, path=there, dev_path=gone)
    mining = replace(config.mining, retriever=Retriever.run, path=gone)
    evaluation = replace(config.evaluation, nano_beir=[], collections=[there, gone], rivals=[gone])
    model = replace(config.model, path=there)
    found = preflight.check(replace(config, data=data, mining=mining, evaluation=evaluation, model=model))
    status = [(of.what, of.status) for of in found if of.what in ("data", "run", "collection", "rival")]
    assert status == [
        ("data", OK), ("data", FAIL), ("run", FAIL), ("collection", OK), ("collection", FAIL), ("rival", FAIL)
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_asked_for_and_not_there_fails(config: Config) -> None:
    _, found = _device(replace(config, runtime=RuntimeConfig(device=Device.cuda)))
    assert found.status == FAIL and "runtime=cpu" in found.said
    _, found = _device(config)
    assert found.status == WARN and "sees no GPU" in found.said
    _, found = _device(replace(config, runtime=RuntimeConfig(device=Device.cpu)))
    assert found.status == OK


def test_bf16_where_it_is_slow_warns(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = _precision(config, CPU)
    assert (
        found.status == WARN and "neither AMX nor AVX512_BF16" in found.said and "training.precision=fp32" in found.said
    )
    plain = replace(config, training=replace(config.training, precision=Precision.fp32))
    assert _precision(plain, CPU).status == OK


def test_a_report_with_a_failure_is_an_error_that_names_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [Finding(OK, "login", "as me"), Finding(FAIL, "memory", "none. Buy some")]
    monkeypatch.setattr(preflight, "check", lambda _: lines)
    with pytest.raises(ResourceError, match="every check must pass before a run, got 'memory'"):
        preflight.report(config)
    lines.pop()
    assert preflight.report(config) == "OK    login        as me"
