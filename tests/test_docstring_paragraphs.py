"""Markup that becomes words. What paragraphs become is in test_docstrings."""

from __future__ import annotations

import pytest

from pipeline.data.docstring_paragraphs import paragraphs, plain_words


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        (":class:`~torch.nn.Linear` and :meth:`fit <a.b.fit>`", "Linear and fit"),
        ("``x`` or `y`_ or **bold** or *thin*", "x or y or bold or thin"),
        ("a * b * c and *args", "a * b * c and *args"),
        ("`the guide <https://example.org>`_ says [2]_, [`Auto`]", "the guide says, Auto"),
        ("<Tip warning={true}>Mind</Tip> the\tgap", "Mind the gap"),
        (":math:`x^2` grows", "x^2 grows"),
    ],
)
def test_markup_becomes_words(markup: str, words: str) -> None:
    assert plain_words(markup) == words


DOC = """
    Sort the rows `in place`

    Stable, as timsort is.

    .. code-block:: python

        sort(rows)

    Args:
        key: What to sort by.

    Examples:
        Never read.

    Notes:
        Kept as prose.
"""


def test_prose_and_entries_are_told_apart_and_examples_left_out() -> None:
    found = paragraphs(DOC)
    assert found.prose == ["Sort the rows in place.", "Stable, as timsort is.", "Kept as prose."]
    assert found.entries == ["key: What to sort by."]
