"""Where a pair is cut. Reading a template off real tokenizers is in test_tokens.py, which makes them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.pair_template import PairTemplate, truncated


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
