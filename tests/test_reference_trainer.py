"""The reference trainer: 50 steps have the losses and weights of sentence-transformers' `CrossEncoderTrainer`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutated_steps import MUTATIONS
from small_models import (
    Row,
    labelled,
    model_config,
    rows_into,
    tiny,
    trainer_of,
    training_config,
    training_rows,
    weights,
)

from pipeline.config.learning import TrainingConfig
from pipeline.engine import model_files
from pipeline.engine.training import Hooks
from pipeline.inputs.batching import Plan

Reference = tuple[Path, list[float], dict[str, torch.Tensor]]
"""The starting folder, every step's loss and the final weights."""


def reference(
    folder: Path, rows: list[tuple[str, str, float]], config: TrainingConfig, out: Path
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Every step's loss and the final weights of `CrossEncoderTrainer` on the same rows in our order."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    losses: list[float] = []

    class Recorded(BinaryCrossEntropyLoss):
        def forward(self, inputs: Any, labels: Any) -> Any:
            loss = super().forward(inputs, labels)
            losses.append(loss.item())
            return loss

    model = CrossEncoder(str(folder), num_labels=1, device="cpu")
    order = np.concatenate([Plan(len(rows), config.batch_size, config.epochs, 12).permutation(0)])
    columns = [[rows[i][column] for i in order] for column in range(3)]
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(out), num_train_epochs=1, per_device_train_batch_size=config.batch_size, use_cpu=True,
        learning_rate=config.learning_rate, warmup_steps=config.warmup_ratio, weight_decay=config.weight_decay,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, bf16=False, fp16=False,
        batch_sampler=lambda dataset, batch_size, drop_last, **_: DefaultBatchSampler(
            torch.utils.data.SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last
        ),
    )  # fmt: skip
    CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(dict(zip(("query", "passage", "label"), columns, strict=True))),
        loss=Recorded(model, pos_weight=torch.tensor(config.pos_weight)),
    ).train()
    return losses, {name: tensor.detach() for name, tensor in model.model.state_dict().items()}


@pytest.fixture(scope="module")
def reference_run(
    base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float], dict[str, torch.Tensor]]:
    """The starting folder, and the reference's losses and final weights over 50 steps, the last with 11 rows."""
    start = tmp_path_factory.mktemp("start")
    model_files.save(tiny(base), start, model_config(base))
    return start, *reference(start, labelled(795), training_config(), tmp_path_factory.mktemp("reference"))


def our_losses(start: Path, folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    reranker = tiny(start)
    rows: list[Row] = []
    trainer_of(
        reranker, training_rows(reranker, labelled(795)), training_config(), folder, Hooks(on_row=rows_into(rows))
    ).run()
    return [row["loss"] for row in rows], weights(reranker)


def assert_losses_agree(ours: list[float], expected: list[float]) -> None:
    assert len(ours) == len(expected)
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, expected, strict=True))
    assert worst <= 1e-5, f"largest relative difference {worst:.3g}"


def test_fifty_steps_match_the_reference_trainer(reference_run: Reference, tmp_path: Path) -> None:
    start, expected, final = reference_run
    ours, trained = our_losses(start, tmp_path)
    assert len(expected) == 50 and len(set(expected)) == 50
    assert_losses_agree(ours, expected)
    assert max(abs(a - b) for a, b in zip(expected[:10], expected[-10:], strict=True)) > 0.01, (
        "the model learned something"
    )
    assert trained.keys() == final.keys()
    apart = math.sqrt(sum(float((trained[name] - final[name]).double().square().sum()) for name in final))
    moved = weights(tiny(start))
    path = math.sqrt(sum(float((moved[name] - final[name]).double().square().sum()) for name in final))
    assert apart <= 1e-3 * path, f"final weights {apart:.3g} apart, {path:.3g} from the start"


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutated_steps_do_not_match_the_reference_trainer(
    reference_run: Reference, tmp_path: Path, mutation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    MUTATIONS[mutation](monkeypatch)
    ours, _ = our_losses(reference_run[0], tmp_path)
    with pytest.raises(AssertionError):
        assert_losses_agree(ours, reference_run[1])
