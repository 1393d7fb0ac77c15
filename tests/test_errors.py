"""What a foreign error says, in one line, and the form of a refusal."""

from __future__ import annotations

import pytest

from pipeline.core.errors import first_line, must, named, one_line


@pytest.mark.parametrize(
    ("error", "first", "whole", "with_class"),
    [
        (ValueError("one\n two"), "one", "one two", "ValueError: one"),
        (ValueError("\n \ntwo "), "two", "two", "ValueError: two"),
        (
            ValueError("it failed:\n\n why\nwhere"),
            "it failed: why",
            "it failed: why where",
            "ValueError: it failed: why",
        ),
        (ValueError("it failed:"), "it failed:", "it failed:", "ValueError: it failed:"),
        (ValueError(), "ValueError", "ValueError", "ValueError"),
        (OSError(" \n"), "OSError", "OSError", "OSError"),
    ],
)
def test_an_error_that_may_say_nothing_on_one_line(error: Exception, first: str, whole: str, with_class: str) -> None:
    assert (first_line(error), one_line(error), named(error)) == (first, whole, with_class)


@pytest.mark.parametrize(
    ("got", "shown"),
    [
        ("nothing there", "nothing there"),
        (repr("a"), "'a'"),
        (3, "3"),
        (None, "None"),
        ("Torn file.", "Torn file"),
        ("a\x1b[31m\nb — 漢字", r"a\x1b[31m\nb — 漢字"),
        ("x" * 201, "x" * 200 + "…"),
    ],
)
def test_a_refusal_prints_what_it_got_as_it_stands(got: object, shown: str) -> None:
    assert must("data.path", "exist", got, "Correct it.") == f"data.path must exist, got {shown}. Correct it."
