"""Pairs composed from tokenised texts are the tokenizer's own pairs: every id, type and mask, for any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_fixtures import bert_tiny, modernbert
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pair_tokenizers import MAKERS, MAX, ODD, left_padded, made, roberta, saved, xlnet
from tokenizers import processors

from pipeline.core.errors import ModelError
from pipeline.inputs import collation
from pipeline.inputs.pair_template import PairTemplate
from pipeline.inputs.tokens import TokenTable
from pipeline.networks.packed_rows import Rows

TEXT = st.one_of(
    st.text(max_size=40),
    st.sampled_from(ODD),
    st.integers(0, 60).map(lambda n: "river " * n),
    st.lists(st.sampled_from(["the", "river", "stone", "number", "7", "?", "gardens"]), max_size=30).map(" ".join),
)


@pytest.fixture(params=MAKERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PairTemplate]:
    return made(request.param, tmp_path_factory)


def assert_equals_the_tokenizers(tokenizer: Any, template: PairTemplate, pairs: list[tuple[str, str]]) -> None:
    texts = [text for pair in pairs for text in pair]
    table = TokenTable.build(texts, tokenizer, MAX)
    first, second = np.arange(len(pairs)) * 2, np.arange(len(pairs)) * 2 + 1
    batch = collation.pad(table, template, first, second)
    expected = tokenizer(
        [q for q, _ in pairs], [p for _, p in pairs], truncation="longest_first", max_length=MAX, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    assert set(batch) == set(expected)
    for name, tensor in batch.items():
        assert torch.equal(tensor, expected[name]), name
    assert table.pair_lengths(template, first, second).tolist() == expected["attention_mask"].sum(1).tolist()


@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
@example(pairs=[("", ""), ("", "river " * 60), ("river " * 60, ""), ("river " * 60, "stone " * 60)])
@example(pairs=[("river " * (MAX // 2 - 2), "stone " * (MAX // 2 - 1)), ("river " * 11, "stone " * 10)])
@example(pairs=list(zip(ODD, reversed(ODD), strict=True)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_equal_the_tokenizers_own(tokenizer: tuple[Any, PairTemplate], pairs: list[tuple[str, str]]) -> None:
    assert_equals_the_tokenizers(*tokenizer, pairs)


def test_token_types_are_zero_if_the_tokenizer_gives_none(tmp_path: Path) -> None:
    tokenizer = saved(bert_tiny)(tmp_path)
    texts, first, second = ["the river", "a stone"], np.array([0]), np.array([1])
    token_types = {}
    for names in (["input_ids", "token_type_ids", "attention_mask"], ["input_ids", "attention_mask"]):
        tokenizer.model_input_names = names
        template = collation.checked_template(tokenizer, MAX)
        table = TokenTable.build(texts, tokenizer, MAX)
        packed, blocks = (
            collation.pack(table, template, first, second),
            collation.blocks(table, template, first, second, 1),
        )
        token_types[len(names)] = [int(Rows.of(packed).token_type_ids.max()), int(blocks["token_type_ids"].max())]
    assert token_types == {3: [1, 1], 2: [0, 0]}, "as transformers does with what `collate` leaves out"


@pytest.mark.parametrize("tokenizer", ["bert", "roberta"], indirect=True)
def test_pairs_are_truncated_as_the_tokenizer_truncates(tokenizer: tuple[Any, PairTemplate]) -> None:
    lengths = [0, 1, 2, 8, 9, 10, 11, 12, 19, 20, 21, 22, 23, 24, 25, 40]
    texts = {n: " ".join(["the"] * n) for n in lengths}
    assert_equals_the_tokenizers(*tokenizer, [(texts[n], texts[m]) for n in lengths for m in lengths])


def test_padding_is_on_the_tokenizers_side(tmp_path: Path) -> None:
    tokenizer = left_padded(tmp_path)
    template = collation.checked_template(tokenizer, MAX)
    table = TokenTable.build(["river", "the river number"], tokenizer, MAX)
    batch = collation.pad(table, template, np.array([0, 1]), np.array([0, 1]))
    assert template.pad_left
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist())
    assert batch["attention_mask"][0, 0] == 0 and batch["input_ids"][0, 0] == tokenizer.pad_token_id


def test_template_is_checked_once_per_tokenizer_and_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    proofs: list[int] = []
    prove = collation._prove

    def counted(template: PairTemplate, tokenizer: Any) -> None:
        proofs.append(template.max_length)
        prove(template, tokenizer)

    monkeypatch.setattr(collation, "_prove", counted)
    monkeypatch.setattr(collation, "_PROVEN", set())
    folder = modernbert(tmp_path)
    for length in (40, 40, 41):
        collation.checked_template(AutoTokenizer.from_pretrained(folder), length)
    other = AutoTokenizer.from_pretrained(folder)
    other.padding_side = "left"
    collation.checked_template(other, 41)
    for name, value in (("split_special_tokens", True), ("model_input_names", ["input_ids"])):
        setattr(other, name, value)
        for _ in range(2):
            collation.checked_template(other, 41)
    assert proofs == [40, 41, 41, 41, 41]


def test_checked_template_is_not_reused_for_another_truncation_side(tmp_path: Path) -> None:
    tokenizer = saved(modernbert)(tmp_path)
    collation.checked_template(tokenizer, MAX)
    tokenizer.truncation_side = "left"
    with pytest.raises(ModelError, match=r"^the model's tokenizer must encode a pair as its two texts between "):
        collation.checked_template(tokenizer, MAX)


def test_special_tokens_keep_their_own_types(tmp_path: Path) -> None:
    tokenizer = xlnet(tmp_path)
    template, table = (
        collation.checked_template(tokenizer, MAX),
        TokenTable.build(["river", "the river number"], tokenizer, MAX),
    )
    assert template.types == (0, 0, 1, 1, 2)
    first, second = np.array([1, 0]), np.array([0, 0])
    expected = tokenizer("the river number", "river")["token_type_ids"]
    assert expected[-3:] == [1, 1, 2]
    packed = Rows.of(collation.pack(table, template, first, second)).token_type_ids
    assert packed.tolist() == [*expected, *tokenizer("river", "river")["token_type_ids"]]
    assert collation.blocks(table, template, first, second, 1)["token_type_ids"][: len(expected)].tolist() == expected


@pytest.mark.parametrize("name", ["token_type_ids", "attention_mask"])
def test_tokenizer_with_irregular_types_or_mask_is_refused(tmp_path: Path, name: str) -> None:
    tokenizer = saved(bert_tiny)(tmp_path)

    class Odd(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, *args: Any, **values: Any) -> Any:
            found = super().__call__(*args, **values)
            if values.get("padding"):
                found[name][:, 1] = 0
                found[name][:, 2] = 1 - found[name][:, 2]
            return found

    collation.checked_template(tokenizer, MAX)
    tokenizer.__class__ = Odd
    with pytest.raises(ModelError, match=r"^the model's tokenizer must encode a pair as its two texts between "):
        collation.checked_template(tokenizer, MAX)


def test_tokenizer_without_a_padding_token_is_refused(tmp_path: Path) -> None:
    tokenizer = roberta(tmp_path)
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match=r"^the model's tokenizer must have a padding token, got None\. Set "):
        collation.checked_template(tokenizer, MAX)


def test_tokenizer_that_swaps_the_texts_of_a_pair_is_refused(tmp_path: Path) -> None:
    tokenizer = roberta(tmp_path)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $B </s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    with pytest.raises(ModelError, match=r"^the model's tokenizer must compose a pair from two texts, got "):
        collation.checked_template(tokenizer, MAX)
