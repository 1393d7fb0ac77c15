"""A table of tokens: what is written and opened is what is built, and the caller's tokenizer stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_fixtures import _texts
from pair_tokenizers import MAKERS, MAX, ODD, made

from pipeline.inputs import tokens
from pipeline.inputs.pair_template import PairTemplate
from pipeline.inputs.tokens import TokenTable


@pytest.fixture(params=MAKERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PairTemplate]:
    return made(request.param, tmp_path_factory)


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


def test_the_callers_tokenizer_is_left_as_it_was(tokenizer: tuple[Any, PairTemplate]) -> None:
    before = tokenizer[0].backend_tokenizer.to_str()
    TokenTable.build(["river " * 60], tokenizer[0], MAX)
    assert tokenizer[0].backend_tokenizer.to_str() == before


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


def test_the_share_of_a_token_is_of_all_that_are_kept() -> None:
    table = TokenTable(np.array([7, 1, 7, 7], np.uint16), np.array([0, 2]), np.array([2, 9]))
    assert (table.share_of(7), table.share_of(5), table.share_of(None)) == (0.75, 0.0, 0.0)
    assert TokenTable(np.zeros(0, np.uint16), np.zeros(0, np.int64), np.zeros(0, np.int64)).share_of(7) == 0.0
