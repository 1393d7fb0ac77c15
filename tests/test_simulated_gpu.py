"""Training and scoring on a simulated GPU: devices of tensors, waits for the device, and the CPU's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hub_fixtures
import numpy as np
import pytest
import torch
from hub_fixtures import sentences
from packed_models import bert, modernbert, random_pairs, template
from simulated_gpu import CUDA, DeviceRecord, Simulated
from small_models import CPU, labelled, lively, model_config, training_config, training_rows, weights

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention
from pipeline.core.errors import Interrupted
from pipeline.engine import model_files, modeling
from pipeline.engine.machine import GPU_BYTES_PER_TOKEN_LAYER
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer
from pipeline.engine.training import Hooks, Trainer
from pipeline.inputs import collation

PAIRS = [*sentences(40), ("river " * 200, "a river")]
STEPS = 8


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    made = {"bert": folder / "bert", "modernbert": folder / "modernbert"}
    hub_fixtures.bert_tiny(made["bert"])
    hub_fixtures.modernbert(made["modernbert"], layers=4)
    return made


def bert_of(layers: int, **values: Any) -> Any:
    return bert(layers, intermediate_size=1024, **values)


def bert_with_dropout(layers: int, **values: Any) -> Any:
    return bert_of(layers, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, **values)


def modernbert_of(layers: int, **values: Any) -> Any:
    """As wide inside, for 256 units, as ModernBERT-large is for 1,024."""
    return modernbert(layers, intermediate_size=656, layer_types=["sliding_attention"] * layers, **values)


def reranker_of(base: Path, dropout: float = 0.0) -> Reranker:
    return lively(model_files.load(base, model_config(base, dropout=dropout), seed=12, attention=Attention.varlen))


def trainer_of(
    base: Path, device: torch.device, folder: Path, precision: Precision = Precision.fp32, budget: int = 512,
    hooks: Hooks | None = None, dropout: float = 0.0, **values: Any,
) -> Trainer:  # fmt: skip
    reranker = reranker_of(base, dropout)
    rows = training_rows(reranker, labelled(STEPS * 16))
    return Trainer(
        reranker, rows, training_config(logging_steps=4, **values), seed=12, device=device, precision=precision,
        token_budget=budget, folder=folder, identity={"key": "test"}, hooks=hooks or Hooks(),
    )  # fmt: skip


def losses(trainer: Trainer) -> list[float]:
    trainer.run()
    return [row["loss"] for row in trainer.state.rows if row["kind"] == "train"]


def test_simulation_refuses_mixed_devices_and_counts_waits(simulated_gpu: DeviceRecord) -> None:
    there = torch.arange(6.0).reshape(2, 3).pin_memory().to(CUDA, non_blocking=True)
    weight = torch.ones(3, 3, device=CUDA, requires_grad=True)
    (there @ weight).sum().backward()
    assert isinstance(weight.grad, Simulated) and weight.grad.device == CUDA and not simulated_gpu.waits
    assert weight.grad.cpu().tolist() == [[3.0] * 3, [5.0] * 3, [7.0] * 3]
    assert float(there[1, 2]) == 5.0 and (there[0] == 1).nonzero().tolist() == [[1]]
    torch.ones(3).to(CUDA)
    torch.ones(3).to(CUDA, non_blocking=True)  # from memory that may be moved meanwhile
    assert there[there > 3].tolist() == [4.0, 5.0]
    assert simulated_gpu.waits == {"": 8}
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize(("precision", "apart"), [(Precision.fp32, 1e-5), (Precision.bf16, 0.02)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_training_gives_the_cpus_losses_and_waits_only_where_it_logs(
    kind: str, precision: Precision, apart: float, bases: dict[str, Path], tmp_path: Path, request: Any
) -> None:
    expected = losses(trainer_of(bases[kind], CPU, tmp_path / "cpu"))
    record: DeviceRecord = request.getfixturevalue("simulated_gpu")
    trainer = trainer_of(bases[kind], CUDA, tmp_path / "gpu", precision)
    assert all(parameter.is_cuda for parameter in trainer.model.parameters())
    record.waits.clear()
    after_step = list[int]()
    trainer.hooks = Hooks(interrupted=lambda: after_step.append(record.waits.total()) or False)
    assert losses(trainer) == pytest.approx(expected, rel=apart) and len(expected) == 3
    # A logged step (1, 4, 8) waits for loss, norm, whether they are finite, and the losses since the last row.
    assert after_step == [4, 4, 4, 8, 8, 8, 8, 12]
    # The checkpoint after the last step waits for whether all is finite, the losses, and every weight twice.
    tensors = len(trainer.model.state_dict())
    assert record.waits == {"engine/training": 12 + 2 + tensors, "engine/checkpoints": tensors}
    windows = {"bert": {-1}, "modernbert": {-1, 64}}[kind]
    assert set(record.windows) == (windows if precision is Precision.bf16 else set())


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_scores_match_the_cpus_and_are_fetched_once(kind: str, bases: dict[str, Path], request: Any) -> None:
    def scorer(device: torch.device, precision: Precision) -> PairScorer:
        reranker = reranker_of(bases[kind])
        reranker.model.to(device)
        return PairScorer(reranker, device=device, precision=precision, token_budget=512)

    expected = scorer(CPU, Precision.fp32).score(PAIRS)
    record: DeviceRecord = request.getfixturevalue("simulated_gpu")
    subject = scorer(CUDA, Precision.fp32)
    record.waits.clear()
    for times in (1, 2, 3):
        assert np.abs(subject.score(PAIRS) - expected).max() <= 1e-5
        # Once for all the texts' tokens, and for the scores each time.
        assert record.waits == {"inputs/tokens": 1, "engine/scoring": times}
    assert not record.windows
    assert np.abs(scorer(CUDA, Precision.bf16).score(PAIRS) - expected).max() <= 0.02 * np.ptp(expected)
    assert record.windows


@pytest.mark.parametrize(
    ("build", "expected"),
    [(bert_of, 36.1), (bert_with_dropout, 40.1), (modernbert_of, 40.6)],
    ids=["bert", "bert with dropout", "modernbert"],
)
def test_bytes_kept_per_layer_match_the_token_budget(
    build: Any,
    expected: float,
    simulated_gpu: DeviceRecord,
) -> None:
    table, first, second = random_pairs()
    batch = {name: tensor.to(CUDA) for name, tensor in collation.pack(table, template(), first, second).items()}
    tokens = modeling.computed_tokens(batch)

    def kept(layers: int) -> int:
        found: dict[int, Any] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tokens in tensor.shape:
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage
            return tensor

        model = build(layers, hidden_size=256, num_attention_heads=4).to(CUDA).train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            modeling.logits(model, batch, Precision.bf16)
        return sum(storage.nbytes() for storage in found.values())

    each = (kept(4) - kept(3)) / tokens / 256
    assert each == pytest.approx(expected, abs=0.4)
    assert each <= GPU_BYTES_PER_TOKEN_LAYER


@pytest.mark.parametrize(("precision", "dropout"), [(Precision.fp32, 0.0), (Precision.bf16, 0.1)], ids=["fp32", "bf16"])
def test_interrupted_run_resumes_to_the_same_weights(
    precision: Precision,
    dropout: float,
    bases: dict[str, Path],
    tmp_path: Path,
    simulated_gpu: DeviceRecord,
) -> None:
    def trainer(name: str, hooks: Hooks | None = None) -> Trainer:
        return trainer_of(bases["bert"], CUDA, tmp_path / name, precision, hooks=hooks, dropout=dropout)

    whole = trainer("whole")
    whole.run()
    stops = iter([False, False, True])
    with pytest.raises(Interrupted):
        trainer("cut", Hooks(interrupted=lambda: next(stops))).run()
    resumed = trainer("cut")
    resumed.run()
    assert resumed.state.resumed_at == [3]
    found, expected = (
        {name: tensor.cpu() for name, tensor in weights(trainer.updater.reranker).items()}
        for trainer in (resumed, whole)
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert bool(simulated_gpu.windows) == (precision is Precision.bf16), "bf16 runs in FlashAttention, with dropout too"


def test_out_of_memory_halves_the_budget_and_keeps_the_losses(
    bases: dict[str, Path],
    tmp_path: Path,
    simulated_gpu: DeviceRecord,
) -> None:
    expected = losses(trainer_of(bases["bert"], CUDA, tmp_path / "enough"))
    scarce = trainer_of(bases["bert"], CUDA, tmp_path / "scarce")
    simulated_gpu.most_rows = 200  # tokens
    assert losses(scarce) == pytest.approx(expected, rel=1e-5)
    assert scarce.state.budget in (128, 256)
    assert scarce.state.budgets == [[1, scarce.state.budget]]
