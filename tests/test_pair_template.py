"""Where a pair is cut. Reading a template off real tokenizers is in test_collation.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hub_fixtures import bert_tiny
from hypothesis import given
from hypothesis import strategies as st
from pair_tokenizers import roberta

from pipeline.inputs.pair_template import PairTemplate, identity, truncated


@given(first=st.integers(0, 900), second=st.integers(0, 900), room=st.integers(1, 300))
def test_truncation_fills_the_room_and_cuts_the_longer_text(first: int, second: int, room: int) -> None:
    a, b = (int(x) for x in truncated(np.array(first), np.array(second), room))
    assert a + b == min(first + second, room)
    assert a <= first and b <= second
    if a < first:
        assert a >= b - 1
    if b < second:
        assert b >= a - 1


def test_room_is_what_special_tokens_leave() -> None:
    template = PairTemplate((0,), (2, 2), (2,), (0, 0, 0, 0, 0, 0), 1, 0, False, False, 40)
    assert template.room == 36
    assert template.texts == (1, 4)


def test_an_identity_ignores_truncation_and_sees_the_vocabulary(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertConfig

    bert_tiny(tmp_path)
    bert, again = (AutoTokenizer.from_pretrained(tmp_path, config=BertConfig()) for _ in range(2))
    other = roberta(tmp_path)
    again(["x"], ["y"], truncation=True, max_length=9, padding=True)
    assert identity(bert) == identity(again) != identity(other)
    again.add_tokens(["zzz"])
    assert identity(bert) != identity(again)
