"""Whole runs on a true GPU: they repeat, go on and survive a full memory, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_fixtures import bert_tiny
from small_models import labelled, lively, model_config, training_config, training_rows, weights

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention, RuntimeConfig
from pipeline.core.errors import Interrupted, out_of_gpu_memory
from pipeline.engine import model_files
from pipeline.engine.machine import resolve_device
from pipeline.engine.training import Hooks, Trainer

pytestmark = pytest.mark.gpu

STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_tiny(tmp_path_factory.mktemp("base"))


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


def test_a_run_with_dropout_repeats_and_goes_on_to_the_bit(base: Path, tmp_path: Path) -> None:
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
    """96 MiB more than what is taken."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 96 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_full_memory_halves_the_budget_and_the_weights_are_those_of_a_run_that_began_with_it(
    base: Path, tmp_path: Path, little_memory: None
) -> None:
    scarce = trainer_of(base, tmp_path / "scarce", batch=4096, budget=2**20)
    found = trained(scarce)
    ((step, budget),) = scarce.state.budgets
    assert step == 1 and budget < 2**18
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert equal(trained(trainer_of(base, tmp_path / "small", batch=4096, budget=budget)), found)


def test_a_full_memory_is_known_by_what_torch_raises(little_memory: None) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**30, device="cuda")
    assert out_of_gpu_memory(raised.value)
