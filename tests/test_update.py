"""One update of the weights: its optimizer, clipping, non-finite steps, and operators that are not repeatable."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from small_models import BUDGET, Row, labelled, rows_into, tiny, trainer_of, training_config, training_rows, weights

from pipeline.config.learning import Precision
from pipeline.engine import steps, update
from pipeline.engine.training import Hooks
from pipeline.inputs.batching import Plan

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 1}
KINDS: dict[str, dict[str, Any]] = {
    "Bert": {}, "ModernBert": {}, "DebertaV2": {"relative_attention": True}, "MPNet": {},
    "XLNet": dict.fromkeys(SMALL) | {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "num_labels": 1},
    "GPT2": {}, "Llama": {}, "T5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_optimizer_decays_the_weights_that_the_reference_trainer_decays(kind: str) -> None:
    values = {name: value for name, value in {**SMALL, **KINDS[kind]}.items() if value is not None}
    config = getattr(transformers, f"{kind}Config")(vocab_size=100, pad_token_id=0, bos_token_id=1, **values)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    decayed, exempt = update.optimizer_of(model, training_config(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1 and exempt["weight_decay"] == 0.0
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    names = [{by_id[id(parameter)] for parameter in group["params"]} for group in (decayed, exempt)]
    assert names[0] | names[1] == set(by_id.values()) and not names[0] & names[1]
    expected = transformers.Trainer.get_decay_parameter_names(None, model)  # type: ignore[arg-type]
    assert names[0] == set(expected) & set(by_id.values()) and all(names)
    assert kind != "MPNet" or "mpnet.encoder.relative_attention_bias.weight" in names[1]


def test_updates_after_a_nonfinite_step_change_nothing(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    trainer = trainer_of(reranker, training_rows(reranker, labelled(45)), training_config(), tmp_path, Hooks())
    updater, before = trainer.updater, weights(reranker)
    updater.failed.fill_(1.0)  # as a non-finite step whose numbers nobody has read leaves it
    updater.bad.copy_(torch.tensor([7.0, 8.0]))
    updater.update(updater.prepare(np.arange(8)), 0.1)
    assert updater.bad.tolist() == [7.0, 8.0] and float(updater.failed) == 1.0
    assert all(torch.equal(now, before[name]) for name, now in weights(reranker).items())


def test_operator_without_deterministic_kernel_is_logged_and_used(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def gradient(features: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(features).put_(torch.arange(features.numel()), features)  # has none on a CPU either

    found = []
    for strict in (False, True):
        reranker = tiny(base, dropout=0.1)
        reranker.model.classifier.register_forward_pre_hook(
            lambda _, inputs: inputs[0].register_hook(gradient) and None
        )
        data, config = training_rows(reranker, labelled(45)), training_config(max_steps=3)
        trainer = trainer_of(reranker, data, config, tmp_path / str(strict), Hooks())
        trainer.updater.strict = strict
        with caplog.at_level(logging.WARNING):
            trainer.run()
        found.append(weights(reranker))
    assert caplog.messages == [
        "identical runs may differ in their last bits: put_ does not have a deterministic implementation"
    ]
    assert torch.is_deterministic_algorithms_warn_only_enabled() and not trainer.updater.strict
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0]), "the step was repeated as it was"


def test_clipping_in_the_fused_update_equals_clip_grad_norm(base: Path, tmp_path: Path) -> None:
    """Gradients a hundred times the allowed norm, of another size each step: Adam's moments see what was clipped."""
    config = training_config(batch_size=8, max_steps=3, max_grad_norm=1e-3, warmup_ratio=0.0, logging_steps=1)
    reranker, rows = tiny(base), list[Row]()
    data = training_rows(reranker, labelled(45))
    trainer_of(reranker, data, config, tmp_path, Hooks(on_row=rows_into(rows))).run()
    assert all(row["grad_norm"] > 0.01 for row in rows if row["kind"] == "train")

    plain = tiny(base)
    optimizer = torch.optim.AdamW(plain.model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=False)
    plan = Plan(len(data.label), 8, config.epochs, 12, 3)
    for step, picked in enumerate(plan.batches()):
        optimizer.param_groups[0]["lr"] = config.learning_rate * (3 - step) / 3
        batch = steps.prepare(plain, data, picked, BUDGET)
        update.backward(plain.model, batch, pos_weight=config.pos_weight, precision=Precision.fp32,
                          accelerator=Accelerator(cpu=True))  # fmt: skip
        torch.nn.utils.clip_grad_norm_(plain.model.parameters(), 1e-3)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    found, expected, start = weights(reranker), weights(plain), weights(tiny(base))
    moved = max(float((expected[name] - start[name]).abs().max()) for name in expected)
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-3 * moved
