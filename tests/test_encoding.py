"""Tokens of texts by their words: the library's own, whatever the text, whatever was seen before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import tiny
from tokenizers import AddedToken, Tokenizer

from pipeline.inputs import encoding
from pipeline.inputs.encoding import Encoder, encoder_of, splits_at_spaces

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["[SEP]", "[MASK]x", "river", "bank,", "x" * 120, "漢字", "é", "\u0301", "\n", "\t\u3000", "##s", ""]
)
TEXTS = st.lists(st.lists(WORDS, max_size=8).map(" ".join), max_size=6)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny(tmp_path_factory.mktemp("base")).tokenizer


@pytest.fixture(scope="module")
def backend(tokenizer: Any) -> Tokenizer:
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def changed(backend: Tokenizer, **parts: Any) -> Tokenizer:
    """A copy whose state has other values: `normalizer={"lowercase": False}`; None removes a part."""
    state = json.loads(backend.to_str())
    for part, values in parts.items():
        state[part] = None if values is None else state[part] | values
    return Tokenizer.from_str(json.dumps(state))


def assert_the_librarys(encode: Encoder, backend: Tokenizer, texts: Sequence[str]) -> None:
    ids, lengths = encode(texts)
    assert (ids.dtype, lengths.dtype) == (np.int32, np.int64)
    rows = [backend.encode(text, add_special_tokens=False).ids for text in texts]
    assert lengths.tolist() == [len(row) for row in rows]
    assert ids.tolist() == [token for row in rows for token in row]


@pytest.mark.parametrize(
    "options", [{}, {"lowercase": False, "strip_accents": True}, {"handle_chinese_chars": False, "clean_text": False}]
)
def test_tokens_are_the_librarys_own(backend: Tokenizer, options: dict[str, bool]) -> None:
    other = changed(backend, normalizer=options)
    assert splits_at_spaces(other)
    encode = Encoder(other)

    @given(texts=TEXTS)
    @settings(max_examples=150, deadline=None)
    def check(texts: list[str]) -> None:
        assert_the_librarys(encode, other, texts)  # words of earlier texts are known by now

    check()


def test_every_character_is_as_the_library_has_it(backend: Tokenizer) -> None:
    """Inside a word, alone, first and last: characters are removed, split off, decomposed."""
    encode, characters = Encoder(backend), [chr(n) for n in range(0x3100) if n != 0x20]
    texts = [f"a{one}b {one} x{one} {one}y" for one in characters]
    ids, lengths = encode(texts)
    wanted = backend.encode_batch(texts, add_special_tokens=False)
    assert lengths.tolist() == [len(row) for row in wanted]
    assert ids.tolist() == [token for row in wanted for token in row.ids]


def test_a_word_is_split_once(backend: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, learnt = Encoder(backend), list[list[str]]()
    learn = encode._learn
    monkeypatch.setattr(encode, "_learn", lambda words: (learnt.append(words), learn(words)))
    first, again = encode(["the river the bank", "bank"]), encode(["bank of the river", ""])
    assert learnt == [["the", "river", "bank"], ["of", ""]]
    assert first[1].tolist()[1] > 0 == again[1].tolist()[1]
    assert encode([])[0].size == encode([])[1].size == 0


def test_a_text_the_library_refuses_leaves_nothing_behind(backend: Tokenizer) -> None:
    encode = Encoder(backend)
    encode(["the river"])
    with pytest.raises((TypeError, UnicodeError)):
        encode(["of the", "half \ud800 a pair"])
    assert_the_librarys(encode, backend, ["the river of half a pair"])


@pytest.mark.parametrize("limit", ["MOST_WORDS", "MOST_CHARACTERS"])
def test_what_is_kept_has_a_limit(backend: Tokenizer, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(encoding, limit, 5)
    encode = Encoder(backend)
    for texts in (["one two three"], ["four five six seven", "one"], ["one two", "eight"]):
        assert_the_librarys(encode, backend, texts)
        assert len(encode._number) <= 5 and sum(map(len, encode._number)) <= 30
        assert len(encode._lengths) == len(encode._number)


def test_others_are_left_to_the_library(backend: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [changed(backend, pre_tokenizer=None), changed(backend, normalizer=None)]
    for token in (
        AddedToken("new york", normalized=False), AddedToken("new\tyork"), AddedToken("<mask>", lstrip=True),
        AddedToken("<mask>", rstrip=True),
    ):  # fmt: skip
        others.append(changed(backend))
        others[-1].add_tokens([token])
    for other in others:
        assert not splits_at_spaces(other)
        encode = Encoder(other)
        monkeypatch.setattr(encode, "_learn", lambda words: pytest.fail("split by words"))
        assert_the_librarys(encode, other, ["the <mask> bank  of new york and new\tyork", "<mask> a", "", "york"])


def test_an_encoder_is_that_of_the_tokenizers_state(tokenizer: Any, tmp_path: Path) -> None:
    assert encoder_of(tokenizer) is encoder_of(tokenizer)
    before = encoder_of(tokenizer)
    other = tiny(tmp_path).tokenizer
    other.add_tokens(["riverbank"])
    assert encoder_of(other) is not before
    assert encoder_of(other)(["riverbank"])[1].tolist() == [1] != before(["riverbank"])[1].tolist()
