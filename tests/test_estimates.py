"""What a run takes, at configurations whose figures follow by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from composed_config import composed
from full_size import BERT_TINY, MODERNBERT_LARGE

from pipeline.commands import estimates
from pipeline.commands.estimates import PAIR_TOKENS, Size, hours, size_of
from pipeline.config.learning import Precision
from pipeline.config.schema import Config

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
TINY = Size(10**6, 10**3)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return composed("experiment=gooaq_bert_tiny", f"outputs_dir={tmp_path / 'outputs'}")


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
    size = size_of(with_model(config, tmp_path / "model", published, kind))
    assert size.parameters == pytest.approx(parameters, rel=0.03)  # parameters as the full-size step counted them
    assert size.encoder < size.parameters


def test_training_on_shorter_pairs_takes_less_time(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    training = 6 * TINY.encoder * PAIR_TOKENS * 600_000
    monkeypatch.setattr(estimates, "share", lambda device, precision: 0.5)
    monkeypatch.setattr(estimates, "matrix_rate", lambda *_: training / (0.5 * 3600))
    found = []
    for length in (None, PAIR_TOKENS, 16):
        training_alone = replace(config.training, max_length=length, eval_sets=[], keep_best=False, selection_set=None)
        shorter = replace(config, training=training_alone, evaluation=replace(config.evaluation, nano_beir=[]))
        found.append(hours(shorter, TINY, CPU))
    assert found[0] == found[1] == pytest.approx(1, rel=0.1), "an hour of training, and a little scoring"
    assert found[0] - found[2] == pytest.approx(1 - 16 / PAIR_TOKENS)


def test_only_the_sets_of_the_fixed_steps_count_at_each(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "matrix_rate", lambda *_: 1e12)
    monkeypatch.setattr(estimates, "share", lambda device, precision: 0.5)
    data = replace(config.data, rows=1000, dev_queries=100, validation_queries=10)
    evaluation = replace(config.evaluation, nano_beir=["nq"])
    pair = 2 * TINY.encoder * PAIR_TOKENS / (0.5 * 1e12)
    dev, validation, nano = 100 * 31, 10 * 31, 50 * 101
    for sets, a_round in (([], 0), (["validation"], validation), (["dev", "nano_beir"], dev + nano)):
        fixed = {"eval_sets": sets, "eval_steps": 1, "keep_best": False, "selection_set": None}
        training = replace(config.training, max_steps=2, **fixed)
        trained = 3 * min(2 * training.batch_size, 6_000)
        found = hours(replace(config, data=data, evaluation=evaluation, training=training), TINY, CPU)
        assert 3600 * found == pytest.approx(pair * (trained + 3 * a_round + 2 * (dev + nano)))


def test_the_share_of_the_rate_goes_by_what_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates.processor, "bf16_unit", lambda: "AMX")
    shares = [estimates.share(CPU, precision) for precision in (Precision.bf16, Precision.fp32)]
    assert shares == [estimates.AMX_SHARE, estimates.CPU_SHARE]
    monkeypatch.setattr(estimates.processor, "bf16_unit", lambda: "AVX512_BF16")
    assert estimates.share(CPU, Precision.bf16) == estimates.CPU_SHARE
    assert estimates.share(torch.device("cuda"), Precision.bf16) == estimates.GPU_SHARE
