"""The packed path against transformers' own padded forward: the same logits and the same gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from pipeline.engine import packed
from pipeline.engine.tokens import PairTemplate, TokenTable

TEMPLATE = PairTemplate((101,), (102,), (102,), (0, 0, 0, 1, 1), 0, False, True, 24)


def bert(layers: int = 3) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.2, attn_implementation="eager",
    )  # fmt: skip
    return BertForSequenceClassification(config)


@pytest.fixture()
def pairs() -> tuple[TokenTable, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 30, 40)
    kept = np.minimum(lengths, TEMPLATE.max_length)
    table = TokenTable(rng.integers(1, 100, kept.sum()), np.cumsum(kept) - kept, lengths)
    return table, rng.integers(0, 40, 25), rng.integers(0, 40, 25)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_logits_and_gradients_equal_the_padded_model(
    pairs: tuple[TokenTable, np.ndarray, np.ndarray], layers: int
) -> None:
    ours, theirs = bert(layers).double(), bert(layers).double()
    table, first, second = pairs
    found = packed.logits(ours, table.pack(TEMPLATE, first, second))
    expected = theirs(**table.collate(TEMPLATE, first, second)).logits
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weights = torch.linspace(-1, 1, len(first), dtype=torch.float64)[:, None]
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11, msg=name)


def test_a_pair_does_not_see_its_neighbours(pairs: tuple[TokenTable, np.ndarray, np.ndarray]) -> None:
    model = bert().eval()
    table, first, second = pairs
    together = packed.logits(model, table.pack(TEMPLATE, first, second))
    alone = torch.cat(
        [packed.logits(model, table.pack(TEMPLATE, first[i : i + 1], second[i : i + 1])) for i in range(25)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_dropout_is_drawn_in_training_only(pairs: tuple[TokenTable, np.ndarray, np.ndarray]) -> None:
    model = bert()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    batch = pairs[0].pack(TEMPLATE, *pairs[1:])
    assert torch.equal(packed.logits(model.eval(), batch), packed.logits(copy.deepcopy(model).eval(), batch))
    assert not torch.equal(packed.logits(model.train(), batch), packed.logits(model.train(), batch))


def test_only_a_plain_bert_is_supported() -> None:
    assert packed.supports(bert())
    config = RobertaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1
    )
    other = RobertaForSequenceClassification(config)
    assert not packed.supports(other)
