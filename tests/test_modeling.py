"""A cross-encoder in memory: in which precision it runs, and that the way it runs changes no score or gradient."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hub_fixtures import bert_tiny, modernbert
from packed_models import apart
from small_models import PROBES, lively, model_config, scores, tiny, training_rows

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention
from pipeline.engine.model_files import load
from pipeline.engine.steps import backward, prepare


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_tiny(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("attention", ["varlen", "eager"])
def test_the_head_runs_in_fp32_under_bf16(base: Path, attention: str) -> None:
    reranker = lively(tiny(base, attention=Attention[attention]))
    full, found = scores(reranker), scores(reranker, Precision.bf16)
    rounded = torch.from_numpy(found).bfloat16().float().numpy()
    assert (found != rounded).mean() > 0.8, "logits have more than bf16's 8 significant bits"
    assert 1e-6 < np.abs(found - full).max() < 0.05, "and the encoder did run in bf16"


@pytest.mark.parametrize("attention", ["varlen", "eager"])
def test_a_copy_scores_by_its_own_head(base: Path, attention: str) -> None:
    reranker = tiny(base, attention=Attention[attention])
    copied = dataclasses.replace(reranker, model=copy.deepcopy(reranker.model))
    before = {precision: scores(reranker, precision) for precision in (Precision.fp32, Precision.bf16)}
    with torch.no_grad():
        copied.model.classifier.weight.mul_(3)  # type: ignore[union-attr, operator]
        copied.model.classifier.bias.add_(1)  # type: ignore[union-attr, operator]
    for precision, expected in before.items():
        assert np.array_equal(scores(reranker, precision), expected)
        assert np.abs(scores(copied, precision) - (3 * expected + 1)).max() <= 1e-6
    batch = {"input_ids": torch.tensor([[2, 7, 3]])}
    copied.model(**batch).logits.backward()
    assert reranker.model.classifier.weight.grad is None  # type: ignore[union-attr]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_modernbert_without_padding_has_the_scores_and_gradients_of_one_padded_batch(
    tmp_path: Path, pooling: str
) -> None:
    source = modernbert(tmp_path)
    settings = json.loads((source / "config.json").read_text())
    # Pairs have 5 to 128 tokens here: wider than the window of the layers that have one.
    settings |= {"classifier_pooling": pooling, "local_attention": 32}
    (source / "config.json").write_text(json.dumps(settings))
    rows = [(question, answer * 8 if i % 2 else answer, i % 3 / 2) for i, (question, answer) in enumerate(PROBES)]
    found: dict[Attention, tuple[Any, dict[str, torch.Tensor]]] = {}
    for attention in (Attention.eager, Attention.varlen):
        reranker = lively(load(source, model_config(source, max_length=128), seed=12, attention=attention))
        budget = 10**6 if attention is Attention.eager else 300
        step = prepare(reranker, training_rows(reranker, rows), np.arange(len(rows)), budget)
        assert len(step.batches) == (1 if attention is Attention.eager else 5)
        backward(
            reranker.model, step, pos_weight=5.0, precision=Precision.fp32, accelerator=Accelerator(cpu=True)
        )  # fmt: skip
        grads = {name: p.grad for name, p in reranker.model.named_parameters() if p.grad is not None}
        found[attention] = scores(reranker), grads
    (expected, wanted), (ours, gradients) = found[Attention.eager], found[Attention.varlen]
    assert np.abs(ours - expected).max() <= 1e-5 < expected.std()
    assert apart(gradients, wanted) <= 1e-6
