"""BERT in blocks against transformers' own padded forward: the same logits and gradients, also with dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from packed_models import (
    apart,
    batch_of,
    bert,
    falling,
    gradients,
    modernbert,
    padded,
    random_pairs,
    template,
)  # fmt: skip

from pipeline.config.learning import Precision
from pipeline.engine import modeling
from pipeline.inputs import collation
from pipeline.inputs.batching import TRAINING_WIDTH_STEP, micro_batches
from pipeline.networks import block_attention, block_bert, block_embeddings, packed
from pipeline.networks.dropout import Dropout, drawn_seed


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_logits_and_gradients_equal_the_padded_model(layers: int) -> None:
    model, pairs = bert(layers).double(), falling()
    batch = batch_of(pairs)
    assert len(batch["shapes"]) > 1 and int((batch["shapes"].prod(1)).sum()) < len(batch["input_ids"])
    expected = padded(model, pairs)
    wanted = gradients(model, expected)
    found = packed.logits(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    ours = gradients(model, found)
    assert ours.keys() == wanted.keys() == {key for key, _ in model.named_parameters()}
    for key in wanted:
        torch.testing.assert_close(ours[key], wanted[key], rtol=1e-9, atol=1e-11, msg=key)


def test_bf16_is_as_near_to_the_padded_fp32_model_as_padded_bf16() -> None:
    model, pairs = bert(3), falling()
    exact = padded(model, pairs)
    wanted = gradients(model, exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = padded(model, pairs).float()
    usual = apart(gradients(model, rounded), wanted)
    found = modeling.logits(model, batch_of(pairs), Precision.bf16)
    assert float((found - exact.flatten()).abs().max()) <= 1.5 * float((rounded - exact).abs().max())
    ours = apart(gradients(model, found), wanted)
    assert ours <= 1.2 * usual and usual < 0.1, f"{ours:.3g} beside {usual:.3g}"


def test_only_words_that_were_seen_have_a_gradient() -> None:
    model, pairs = bert(1), falling(4)
    words = model.bert.embeddings.word_embeddings.weight
    (found,) = torch.autograd.grad(packed.logits(model, batch_of(pairs)).sum(), [words])
    seen = set(batch_of(pairs)["input_ids"].tolist())
    (rows,) = found.indices()
    assert found.is_coalesced() and rows.tolist() == sorted(seen) and len(seen) < len(words)
    torch.sparse_coo_tensor(found.indices(), found.values(), found.shape, is_coalesced=True, check_invariants=True)
    assert set(found.to_dense().abs().sum(1).nonzero().flatten().tolist()) == seen - {0}, "padding has none"


def test_a_table_that_is_not_trained_gets_no_gradient() -> None:
    model, pairs = bert(1), falling(4)
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    assert "bert.embeddings.word_embeddings.weight" not in gradients(model, packed.logits(model, batch_of(pairs)))


RATES = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3, "classifier_dropout": 0.3}


@pytest.mark.parametrize("rate", [*RATES, "all"])
def test_with_dropout_the_gradient_is_the_loss_derivative(rate: str) -> None:
    rates = RATES if rate == "all" else dict.fromkeys(RATES, 0.0) | {rate: RATES[rate]}
    model, batch = bert(3, **rates).double().train(), batch_of(falling())
    weights = torch.linspace(-1, 1, 60, dtype=torch.float64)

    def loss() -> torch.Tensor:
        torch.manual_seed(5)  # the same masks
        return (packed.logits(model, batch).flatten() * weights).sum()

    model.zero_grad()
    loss().backward()
    torch.manual_seed(6)
    ways = [torch.randn_like(parameter) for parameter in model.parameters()]
    slope = sum(float((p.grad.to_dense() * way).sum()) for p, way in zip(model.parameters(), ways, strict=True))  # type: ignore[union-attr]
    ends = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for parameter, way in zip(model.parameters(), ways, strict=True):
                parameter.add_(way, alpha=step)
            ends.append(float(loss()))
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-6)
    assert abs(ends[0] - float((packed.logits(model.eval(), batch).flatten() * weights).sum())) > 1e-3


def test_dropout_leaves_the_mean() -> None:
    """Where a mask is the last thing done, the mean over many masks is the value without one."""
    model, batch = bert(1, **RATES).double(), batch_of(falling(8))
    rows = int(batch["shapes"].prod(1).sum())
    blocks = block_attention.blocks_of(batch)
    torch.manual_seed(0)
    layer, x = model.bert.encoder.layer[0], torch.randn(len(batch["input_ids"]), 32, dtype=torch.float64)
    query, key_value = torch.randn_like(x), torch.randn(len(x), 64, dtype=torch.float64)

    def embedded(dropout: Dropout | None) -> torch.Tensor:
        return block_embeddings.embed(model.bert.embeddings, batch, dropout)

    def attended(dropout: Dropout | None) -> torch.Tensor:
        return block_attention.attend(query, key_value, blocks, heads=2, dropout=dropout, rate=0.3)[0]

    def summed(dropout: Dropout | None) -> torch.Tensor:
        work = block_bert._Work(layer, block_bert.cast_weights(model)[0], blocks, dropout, batch["first_tokens"])
        return block_bert._add_norm(x, query.clone(), work, layer.output)[1].total

    with torch.no_grad():
        for of in (embedded, attended, summed):
            drawn = torch.stack([of(Dropout(drawn_seed()))[:rows] for _ in range(800)])
            error = drawn.std(0) / 800**0.5
            assert float((drawn.mean(0) - of(None)[:rows]).abs().sub(5.5 * error).max()) < 1e-9, of.__name__


def test_dropout_is_drawn_from_torchs_generator_in_training_only() -> None:
    model, batch = bert(2, **RATES), batch_of(falling())

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return packed.logits(model, batch).detach()

    model.train()
    assert torch.equal(drawn(1), drawn(1)) and not torch.allclose(drawn(1), drawn(2))
    model.eval()
    assert torch.equal(drawn(1), drawn(2))


def test_only_what_the_code_computes_runs_in_blocks() -> None:
    assert packed.runs_in_blocks(bert(2))
    others: dict[str, Any] = {
        "another activation": bert(1, hidden_act="relu"), "causal": bert(1, is_decoder=True),
        "ModernBERT": modernbert(1), "on another device": bert(1).to("meta"),
    }  # fmt: skip
    assert [what for what, model in others.items() if packed.runs_in_blocks(model)] == []


def test_shapes_repeat() -> None:
    """oneDNN compiles a kernel for every new shape: numbers of rows, queries and widths come from few."""
    table, first, second = random_pairs(400, longest_text=200, max_length=300)
    rng, shapes = np.random.default_rng(0), set()
    for _ in range(60):
        chosen = rng.permutation(400)[: int(rng.integers(40, 60))]
        lengths = table.pair_lengths(template(300), first[chosen], second[chosen])
        for group in micro_batches(lengths, 4096):
            batch = collation.blocks(
                table, template(300), first[chosen][group], second[chosen][group], TRAINING_WIDTH_STEP
            )
            shapes.add((len(batch["input_ids"]), len(batch["first_tokens"])))
            assert {pairs * width <= max(2048, width) for pairs, width in batch["shapes"].tolist()} == {True}
            assert {width % 8 for _, width in batch["shapes"].tolist()} == {0}
            assert len(batch["input_ids"]) <= 1.2 * int(batch["lengths"].sum()) + 64 + 8 * len(group)
    assert len({rows for rows, _ in shapes}) <= 40 and {queries % 16 for _, queries in shapes} == {0}


def test_with_dropout_bf16_is_near_fp32() -> None:
    """The same masks in both: they do not depend on the numbers' type."""
    model, batch = bert(3, **RATES).train(), batch_of(falling())
    found = {}
    for precision in (Precision.fp32, Precision.bf16):
        torch.manual_seed(4)
        found[precision] = gradients(model, modeling.logits(model, batch, precision))
    assert 0 < apart(found[Precision.bf16], found[Precision.fp32]) < 0.1


@pytest.mark.parametrize("frozen", ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder"])
def test_what_is_frozen_has_no_gradient_and_the_rest_its_own(frozen: str) -> None:
    model, pairs = bert(3).double(), falling()
    for parameter in model.get_submodule(frozen).parameters():
        parameter.requires_grad_(False)
    wanted = gradients(model, padded(model, pairs))
    found = gradients(model, packed.logits(model, batch_of(pairs)))
    assert found.keys() == wanted.keys() and apart(found, wanted) < 1e-13
