"""What a foreign error says, in one line, and the form of a refusal."""

from __future__ import annotations

import pytest

from pipeline.core.errors import first_line, must


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n \ntwo"), "two"),
        (ValueError(), "ValueError"),
        (OSError(" \n"), "OSError"),
    ],
)
def test_the_first_line_of_an_error_that_may_say_nothing(error: Exception, line: str) -> None:
    assert first_line(error) == line


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
