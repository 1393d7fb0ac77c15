"""The prefix rule against the definition."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.near_duplicates import NearDuplicates, shingles


def test_shingles_are_runs_of_five_words() -> None:
    assert shingles("a b c d e f") == {"a b c d e", "b c d e f"}
    assert shingles("a b") == {"a b"}


def kept(texts: list[str]) -> list[int]:
    index = NearDuplicates(texts)
    found = []
    for row in range(len(texts)):
        if not index.has(row):
            index.keep(row)
            found.append(row)
    return found


def test_one_changed_word_at_the_end_of_a_long_text_is_a_near_duplicate() -> None:
    words = [f"w{i}" for i in range(30)]
    # 26 shingles each; the last differs: 25 shared of 27.
    texts = [" ".join(words), " ".join([*words[:-1], "other"]), " ".join([*words[:15], "other", *words[16:]])]
    # In the middle, five of 26 differ: 21 shared of 31.
    assert kept(texts) == [0, 2]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=14).map(" ".join), max_size=12))
def test_same_answer_as_comparing_everything(texts: list[str]) -> None:
    expected: list[int] = []
    sets = [shingles(text) for text in texts]
    for row, own in enumerate(sets):
        if not any(len(own & sets[k]) >= 0.8 * len(own | sets[k]) for k in expected):
            expected.append(row)
    assert kept(texts) == expected
