"""One step: its gradient is that of one padded batch, at any micro-batch budget and on any number of lanes."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from mutated_steps import MUTATIONS
from packed_models import apart
from small_models import labelled, model_config, tiny, training_rows
from torch.nn import functional as F

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention
from pipeline.engine import model_files, modeling, steps


def plain_gradients(base: Path, rows: list[tuple[str, str, float]]) -> dict[str, torch.Tensor]:
    """The gradient of one padded batch by transformers and torch alone, tokenised by the tokenizer itself."""
    from transformers import AutoModelForSequenceClassification

    start = base.parent / f"{base.name}-plain"
    reranker = tiny(base)
    if not start.exists():
        model_files.save(reranker, start, model_config(base))
    model = AutoModelForSequenceClassification.from_pretrained(start, attn_implementation="eager")
    batch = reranker.tokenizer(
        [q for q, _, _ in rows], [p for _, p, _ in rows], truncation="longest_first", max_length=64, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    labels = torch.tensor([label for _, _, label in rows])
    logits = model.eval()(**batch).logits.squeeze(-1)
    F.binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.tensor(5.0)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def our_gradients(
    base: Path, rows: list[tuple[str, str, float]], budget: int, attention: Attention, lanes: int = 1,
    dropout: float = 0.0, precision: Precision = Precision.fp32,
) -> Any:  # fmt: skip
    reranker = tiny(base, attention=attention, dropout=dropout)
    reranker.model.train(dropout > 0.0)
    torch.manual_seed(3)
    step = steps.prepare(reranker, training_rows(reranker, rows), np.arange(len(rows)), budget, lanes)
    steps.backward(reranker.model, step, pos_weight=5.0, precision=precision, accelerator=Accelerator(cpu=True))
    return {name: p.grad for name, p in reranker.model.named_parameters() if p.grad is not None}, len(step.batches)


def assert_gradients_agree(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    # Over all parameters together: a tensor whose true gradient is 0 (a key bias) counts by its share of the whole.
    assert (difference := apart(ours, expected)) <= 1e-6, f"relative difference {difference:.3g}"


@pytest.mark.parametrize("attention", ["varlen", "eager", "sdpa"])
@pytest.mark.parametrize(("budget", "pieces"), [(10**6, 1), (640, 2), (200, 6), (1, 33)])
def test_gradients_equal_one_padded_batch_at_any_budget(base: Path, budget: int, pieces: int, attention: str) -> None:
    rows = labelled(33)
    ours, batches = our_gradients(base, rows, budget, Attention[attention])
    assert batches == pieces
    assert_gradients_agree(ours, plain_gradients(base, rows))


@pytest.mark.parametrize(("budget", "lanes", "pieces"), [(10**6, 2, 2), (200, 2, 6), (10**6, 3, 3), (1, 2, 33)])
def test_gradients_equal_one_padded_batch_on_any_number_of_lanes(
    base: Path, budget: int, lanes: int, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LANE_TOKENS", 1)
    ours, batches = our_gradients(base, labelled(33), budget, Attention.varlen, lanes)
    assert batches == pieces
    assert_gradients_agree(ours, plain_gradients(base, labelled(33)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_on_lanes_do_not_depend_on_which_lane_ends_first(
    base: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, of_step, late = list[dict[str, torch.Tensor]](), modeling.of_step, [0.0, 0.02]

    def uneven(model: torch.nn.Module, precision: Precision) -> Any:
        logits, calls = of_step(model, precision), itertools.count()

        def slow(batch: Any, seed: int) -> torch.Tensor:
            time.sleep(late[next(calls) % 2])
            return logits(batch, seed)

        return slow

    monkeypatch.setattr(modeling, "of_step", uneven)
    monkeypatch.setattr(steps, "LANE_TOKENS", 1)
    for _ in range(2):
        found.append(our_gradients(base, labelled(33), 200, Attention.varlen, 2, 0.2, Precision[precision])[0])
        late.reverse()
    assert found[0].keys() == found[1].keys()
    assert [name for name in found[0] if not torch.equal(found[0][name], found[1][name])] == []


def test_bf16_gradients_are_as_close_to_fp32_on_two_lanes_as_on_one(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LANE_TOKENS", 1)
    exact, _ = our_gradients(base, labelled(33), 10**6, Attention.varlen)
    one, _ = our_gradients(base, labelled(33), 10**6, Attention.varlen, precision=Precision.bf16)
    two, _ = our_gradients(base, labelled(33), 10**6, Attention.varlen, 2, precision=Precision.bf16)
    assert 0 < apart(two, exact) <= 1.2 * apart(one, exact) < 0.1


def test_step_uses_only_as_many_lanes_as_have_enough_tokens(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = tiny(base)
    data = training_rows(reranker, labelled(33))
    tokens = int(data.table.pair_lengths(data.template, data.first, data.second).sum())
    for least, lanes in ((tokens // 3, 3), (tokens // 2, 2), (tokens, 1), (tokens + 1, 1), (1, 4)):
        monkeypatch.setattr(steps, "LANE_TOKENS", least)
        step = steps.prepare(reranker, data, np.arange(33), 10**6, 4)
        assert step.lanes == len(step.batches) == lanes


@pytest.mark.parametrize("mutation", ["mean per micro-batch", "pos_weight missing"])
def test_mutated_gradients_do_not_match_one_padded_batch(
    base: Path, mutation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = plain_gradients(base, labelled(33))
    MUTATIONS[mutation](monkeypatch)
    ours, _ = our_gradients(base, labelled(33), 200, Attention.varlen)
    with pytest.raises(AssertionError):
        assert_gradients_agree(ours, expected)


def test_gradients_without_one_row_do_not_match_one_padded_batch(base: Path) -> None:
    ours, _ = our_gradients(base, labelled(33)[:-1], 200, Attention.varlen)
    with pytest.raises(AssertionError):
        assert_gradients_agree(ours, plain_gradients(base, labelled(33)))
