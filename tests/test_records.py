"""The field's nouns: folding, taking rows, and the two pools of a set to rerank."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.records import AS_RETRIEVED, POSITIVES_ADDED, PairRows, RerankingSet, fold


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("What is  a\tQueue?\n", "what is a queue?", True),
        ("STRASSE", "straße", True),
        ("\u00a0a\u2003b", "A B", True),
        ("a b", "ab", False),
        ("cafe", "café", False),
        ("cafe\u0301", "CAFÉ", True),
        ("\u01f0", "J\u030c", True),
        ("क\u093f\u200dताब", "क\u093fताब", True),
        ("\ufeffa\u200b \u00adque\u00adry\u2060", "a query", True),
        ("a\u200bb", "a b", False),
        ("\u200b\u200c\u200d\u2060\ufeff\u00ad", "", True),
        (" ", "", True),
    ],
)
def test_folded_texts_are_equal_up_to_case_and_white_space(one: str, two: str, same: bool) -> None:
    assert (fold(one) == fold(two)) is same


@given(st.text(alphabet=st.sampled_from("aÅ\u0301\u0345ǰßİΣςＡ가각 \t\u200b\u00adé\u0327e\u030a")))
def test_a_folded_text_is_its_own_fold_and_that_of_every_spelling(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text)) == folded


@pytest.mark.parametrize("space", [" ", "  ", "\t", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x1f", " \t "])
def test_no_white_space_of_ascii_is_told_apart(space: str) -> None:
    assert fold(f"{space}One{space}TWO three{space}") == "one two three"
    assert fold(space) == ""
    assert fold(f"a{chr(127)}{space}B") == f"a{chr(127)} b"


def test_rows_are_taken_in_the_order_asked_with_every_column() -> None:
    rows = PairRows(
        questions=["q0", "q1", "q2"], answers=["a0", "a1", "a2"], lines=[1, 2, 4], labels=[1.0, 0.0, 0.5],
        negatives=[["n0"], [], ["n2", "n3"]], groups=["x", "y", "x"], question_ids=["i0", "i1", "i2"],
    )  # fmt: skip
    taken = rows.take([2, 0])
    assert taken == PairRows(
        questions=["q2", "q0"], answers=["a2", "a0"], lines=[4, 1], labels=[0.5, 1.0],
        negatives=[["n2", "n3"], ["n0"]], groups=["x", "x"], question_ids=["i2", "i0"],
    )  # fmt: skip
    bare = PairRows(["q"], ["a"], [1]).take([0, 0])
    assert len(bare) == 2
    assert bare.labels is None and bare.negatives is None and bare.groups is None and bare.question_ids is None


def test_the_pool_holds_the_candidates_and_only_when_asked_the_missing_positives() -> None:
    found = RerankingSet(
        name="dev", queries={"q": "?", "r": "?"}, passages=dict.fromkeys("abcdz", "text"),
        candidates={"q": ["c", "a"]},
        qrels={"q": {"z": 1, "b": 2, "a": 1, "d": 0}, "r": {"b": 1}},
    )  # fmt: skip
    assert found.pool("q", AS_RETRIEVED) == ["c", "a"]
    assert found.pool("q", POSITIVES_ADDED) == ["c", "a", "b", "z"], "missing positives by id; grade 0 is none"
    assert found.pool("r", AS_RETRIEVED) == []
    assert found.pool("r", POSITIVES_ADDED) == ["b"]
    assert found.candidates["q"] == ["c", "a"], "the candidates themselves are left alone"
