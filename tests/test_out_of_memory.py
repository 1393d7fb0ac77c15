"""Memory that runs out in training: the token budget is halved, the step repeated, and a resumed run keeps it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import (
    BUDGET,
    Row,
    labelled,
    rows_into,
    tiny,
    trainer_of,
    training_config,
    training_rows,
    weights,
    without_times,
)

from pipeline.core.errors import ResourceError
from pipeline.engine import checkpoints, modeling, training
from pipeline.engine.training import Hooks

pytestmark = pytest.mark.usefixtures("batches_of_a_gpu")

ENOUGH = 150
"""Tokens that fit into the small GPU: fewer than `BUDGET`, more than half of it."""


def on_a_small_gpu(reranker: modeling.Reranker, tokens: int = ENOUGH, full: Callable[[], bool] = lambda: True) -> None:
    """Let the model's last layer fail as CUDA does, dropout drawn and earlier gradients there, above so many tokens."""
    computed = [0]

    def count(module: Any, inputs: Any, output: Any) -> None:
        computed[0] = inputs[0].numel()

    def fail(module: Any, inputs: Any, output: Any) -> None:
        if computed[0] > tokens and full():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    reranker.model.get_input_embeddings().register_forward_hook(count)
    reranker.model.classifier.register_forward_hook(fail)


def trained_within(
    base: Path, folder: Path, budget: int, tokens: int | None,
    full: Callable[[training.Trainer], bool] = lambda trainer: True, dropout: float = 0.1,
) -> tuple[training.Trainer, dict[str, torch.Tensor], list[Row], Row]:  # fmt: skip
    """Seven steps in three epochs: the trainer, its weights, rows and facts."""
    reranker, rows = tiny(base, dropout=dropout), list[Row]()
    chosen = training_config(epochs=3, max_steps=7, eval_steps=3)
    data = training_rows(reranker, labelled(45))
    trainer = trainer_of(reranker, data, chosen, folder, Hooks(on_row=rows_into(rows)), budget)
    trainer.identity = {"key": "test", "scope": {"micro_batch_tokens": budget, "device": "small"}}
    if tokens is not None:
        on_a_small_gpu(reranker, tokens, lambda: full(trainer))
    facts = trainer.run()
    return trainer, weights(reranker), rows, facts


def test_out_of_memory_at_the_first_step_equals_a_run_at_half_budget(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, expected, rows, facts = trained_within(base, tmp_path / "half", BUDGET // 2, None)
    with caplog.at_level(logging.WARNING):
        trainer, found, ours, our_facts = trained_within(base, tmp_path / "small", BUDGET, ENOUGH)
    assert caplog.messages == [f"out of GPU memory: runtime.micro_batch_tokens halved to {BUDGET // 2}"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert without_times(ours) == without_times(rows), "the padding share too is that of the repeated step"
    assert (our_facts["micro_batch_tokens"], our_facts["padding_share"]) == (BUDGET // 2, facts["padding_share"])
    for step in (6, 7):
        written = checkpoints.read(checkpoints.folder_of(trainer.folder, step))
        assert written.identity["scope"] == {"micro_batch_tokens": BUDGET // 2, "device": "small"}
        assert written.facts["budget"] == BUDGET // 2


def from_the_fifth_step(trainer: training.Trainer) -> bool:
    return trainer.state.step >= 4


def test_out_of_memory_later_changes_only_rounding(base: Path, tmp_path: Path) -> None:
    _, whole, _, _ = trained_within(base, tmp_path / "whole", BUDGET, None, dropout=0.0)
    _, found, _, _ = trained_within(base, tmp_path / "same", BUDGET, ENOUGH, from_the_fifth_step, dropout=0.0)
    apart = max(float((found[name] - whole[name]).abs().max()) for name in whole)
    assert 0 < apart < 1e-5, "dropout's masks depend on the plan, nothing else but rounding does"


def test_resumed_run_keeps_the_halved_budget_unless_another_is_configured(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, found, _, _ = trained_within(base, tmp_path, BUDGET, ENOUGH, from_the_fifth_step)
    # Memory that has come free since changes nothing, for the run has its plan; another one must be asked for.
    shutil.rmtree(checkpoints.folder_of(tmp_path, 7))
    _, again, _, facts = trained_within(base, tmp_path, BUDGET, None)
    assert (facts["micro_batch_tokens"], facts["resumed_at"]) == (BUDGET // 2, [6])
    assert facts["budgets"] == [[5, BUDGET // 2]]
    assert facts["scope"]["micro_batch_tokens"] == BUDGET // 2
    assert all(torch.equal(again[name], found[name]) for name in found)
    shutil.rmtree(checkpoints.folder_of(tmp_path, 7))
    with caplog.at_level(logging.WARNING):
        _, _, _, facts = trained_within(base, tmp_path, 2 * BUDGET, None)
    assert facts["micro_batch_tokens"] == 2 * BUDGET
    assert facts["budgets"] == [[5, BUDGET // 2], [7, 2 * BUDGET]]
    assert f"micro_batch_tokens {BUDGET // 2} → {2 * BUDGET}" in caplog.text


def test_gpu_that_cannot_hold_one_pair_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"GPU memory must hold one pair of the longest length, got 39 tokens"):
        trained_within(base, tmp_path, BUDGET, 3)
    assert checkpoints.steps(tmp_path) == []
