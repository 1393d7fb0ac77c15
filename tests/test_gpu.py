"""Training on a real GPU: runs repeat, resume and survive full memory bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_models import labelled, lively, model_config, training_config, training_rows, weights

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention, RuntimeConfig
from pipeline.core.errors import Interrupted, out_of_gpu_memory
from pipeline.engine import model_files
from pipeline.engine.machine import resolve_device
from pipeline.engine.training import Hooks, Trainer

pytestmark = pytest.mark.gpu

STEPS = 6


def trainer_of(
    base: Path, folder: Path, *, batch: int = 16, budget: int = 512, hooks: Hooks | None = None, dropout: float = 0.1
) -> Trainer:
    """A BERT in bf16 with dropout, as the published bert-tiny is trained."""
    reranker = lively(model_files.load(base, model_config(base, dropout=dropout), seed=12, attention=Attention.varlen))
    device = resolve_device(RuntimeConfig())
    reranker.model.to(device)
    config = training_config(batch_size=batch, logging_steps=2)
    return Trainer(
        reranker, training_rows(reranker, labelled(STEPS * batch)), config, seed=12, device=device,
        precision=Precision.bf16, token_budget=budget, folder=folder, identity={"key": "test"}, hooks=hooks or Hooks(),
    )  # fmt: skip


def trained(trainer: Trainer) -> dict[str, torch.Tensor]:
    trainer.run()
    return {name: tensor.cpu() for name, tensor in weights(trainer.updater.reranker).items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in two)


def test_run_with_dropout_repeats_and_resumes_bit_identical(base: Path, tmp_path: Path) -> None:
    whole = trained(trainer_of(base, tmp_path / "whole"))
    assert equal(trained(trainer_of(base, tmp_path / "again")), whole)
    assert not equal(trained(trainer_of(base, tmp_path / "without", dropout=0.0)), whole)
    stops = iter([False, False, True])
    with pytest.raises(Interrupted):
        trainer_of(base, tmp_path / "cut", hooks=Hooks(interrupted=lambda: next(stops))).run()
    resumed = trainer_of(base, tmp_path / "cut")
    assert equal(trained(resumed), whole) and resumed.state.resumed_at == [3]


@pytest.fixture()
def little_memory() -> Iterator[None]:
    """Leave 96 MiB of GPU memory free."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 96 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_out_of_memory_equals_a_run_started_at_half_budget(base: Path, tmp_path: Path, little_memory: None) -> None:
    scarce = trainer_of(base, tmp_path / "scarce", batch=4096, budget=2**20)
    found = trained(scarce)
    ((step, budget),) = scarce.state.budgets
    assert step == 1 and budget < 2**18
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert equal(trained(trainer_of(base, tmp_path / "small", batch=4096, budget=budget)), found)


def test_out_of_memory_error_of_torch_is_recognised(little_memory: None) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**30, device="cuda")
    assert out_of_gpu_memory(raised.value)
