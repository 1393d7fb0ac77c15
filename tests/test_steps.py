"""One step alone: the gradient of one padded batch, however it is cut."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from mutated_steps import MUTATIONS
from packed_models import apart
from small_models import labelled, model_config, tiny, training_config, training_rows
from torch.nn import functional as F

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention
from pipeline.engine import model_files, modeling, steps, update


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny(folder)
    return folder


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
def test_gradients_are_those_of_one_padded_batch_however_it_is_cut(
    base: Path, budget: int, pieces: int, attention: str
) -> None:
    rows = labelled(33)
    ours, batches = our_gradients(base, rows, budget, Attention[attention])
    assert batches == pieces
    assert_gradients_agree(ours, plain_gradients(base, rows))


@pytest.mark.parametrize(("budget", "lanes", "pieces"), [(10**6, 2, 2), (200, 2, 6), (10**6, 3, 3), (1, 2, 33)])
def test_gradients_are_those_of_one_padded_batch_on_any_number_of_lanes(
    base: Path, budget: int, lanes: int, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LANE_TOKENS", 1)
    ours, batches = our_gradients(base, labelled(33), budget, Attention.varlen, lanes)
    assert batches == pieces
    assert_gradients_agree(ours, plain_gradients(base, labelled(33)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_on_lanes_repeat_to_the_bit_whichever_lane_is_late(
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


def test_bf16_on_lanes_is_as_near_to_fp32_as_on_one(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "LANE_TOKENS", 1)
    exact, _ = our_gradients(base, labelled(33), 10**6, Attention.varlen)
    one, _ = our_gradients(base, labelled(33), 10**6, Attention.varlen, precision=Precision.bf16)
    two, _ = our_gradients(base, labelled(33), 10**6, Attention.varlen, 2, precision=Precision.bf16)
    assert 0 < apart(two, exact) <= 1.2 * apart(one, exact) < 0.1


def test_a_lane_has_work_enough(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = tiny(base)
    data = training_rows(reranker, labelled(33))
    tokens = int(data.table.pair_lengths(data.template, data.first, data.second).sum())
    for least, lanes in ((tokens // 3, 3), (tokens // 2, 2), (tokens, 1), (tokens + 1, 1), (1, 4)):
        monkeypatch.setattr(steps, "LANE_TOKENS", least)
        step = steps.prepare(reranker, data, np.arange(33), 10**6, 4)
        assert step.lanes == len(step.batches) == lanes


@pytest.mark.parametrize("mutation", ["mean per micro-batch", "pos_weight missing"])
def test_a_mutated_gradient_does_not_pass(base: Path, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plain_gradients(base, labelled(33))
    MUTATIONS[mutation](monkeypatch)
    ours, _ = our_gradients(base, labelled(33), 200, Attention.varlen)
    with pytest.raises(AssertionError):
        assert_gradients_agree(ours, expected)


def test_a_row_lost_from_a_batch_does_not_pass(base: Path) -> None:
    ours, _ = our_gradients(base, labelled(33)[:-1], 200, Attention.varlen)
    with pytest.raises(AssertionError):
        assert_gradients_agree(ours, plain_gradients(base, labelled(33)))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 1}
KINDS: dict[str, dict[str, Any]] = {
    "Bert": {}, "ModernBert": {}, "DebertaV2": {"relative_attention": True}, "MPNet": {},
    "XLNet": dict.fromkeys(SMALL) | {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "num_labels": 1},
    "GPT2": {}, "Llama": {}, "T5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_decays_the_same_weights(kind: str) -> None:
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
