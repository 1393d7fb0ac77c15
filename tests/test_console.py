"""Sizes and counts as messages show them; standard output that is closed or full is tested in test_ending.py."""

from __future__ import annotations

import pytest

from pipeline.core.console import in_bytes, number_of


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0 bytes"), (512, "512 bytes"), (24_600, "24.6 kB"), (4.2e6, "4.2 MB"), (1.25e12, "1,250.0 GB")],
)
def test_bytes_are_shown_in_the_unit_that_suits_them(size: float, expected: str) -> None:
    assert in_bytes(size) == expected


@pytest.mark.parametrize(
    ("number", "nouns", "expected"),
    [(1, ["thread"], "1 thread"), (2, ["thread"], "2 threads"), (1234, ["query", "queries"], "1,234 queries")],
    ids=["singular", "plural", "irregular plural"],
)
def test_noun_agrees_with_its_number(number: int, nouns: list[str], expected: str) -> None:
    assert number_of(number, *nouns) == expected


def test_bytes_never_round_up_to_a_thousand_of_a_unit() -> None:
    assert [in_bytes(size) for size in (1, 999, 999.6, 1000, 999_949, 999_999, 999_999_999, 2e12)] == [
        "1 byte", "999 bytes", "1.0 kB", "1.0 kB", "999.9 kB", "1.0 MB", "1.0 GB", "2,000.0 GB",
    ]  # fmt: skip
