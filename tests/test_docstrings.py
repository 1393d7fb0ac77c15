"""What a docstring becomes: literal docstrings in, the pair a person would write out."""

from __future__ import annotations

import pytest

from pipeline.data.docstrings import PASSAGE_CHARACTERS, query_and_passage, sentences

NUMPY_STYLE = """
    fit(x, y=None)

    Fit the isotonic regression to weighted points. Ties are
    averaged, e.g. by :func:`~numpy.mean`, before [1]_.

    .. versionadded:: 0.18
       Weights came later.

    Parameters
    ----------
    x : array_like of shape (n,)
        Abscissas of the points, in *any* order.
    y : {array_like, None}, default=None
        Targets; ``None`` repeats x.

    Returns
    -------
    ndarray
        The fitted values.

    See Also
    --------
    other : Something else entirely.

    Notes
    -----
    Runs in linear time::

        code that is no text

    Examples
    --------
    >>> fit([1, 2])
    array([1, 2])

    References
    ----------
    .. [1] Somebody, "Some paper".
"""

GOOGLE_STYLE = """
    Rotates half of the hidden dimensions of [`~models.Llama`] inputs.

    Args:
        x (`torch.Tensor`, *optional*, of shape `(batch (b), 2)`):
            The **hidden** states, see [the guide](https://example.org/guide).
        kind: How the halves are paired: interleaved or blocked.
    ```python
    >>> rotate(x)
    ```
    Returns:
        Tensor: The rotated states, of the same shape as x.

    Raises:
        ValueError: for an odd size
"""


def test_numpy_style() -> None:
    assert query_and_passage(NUMPY_STYLE) == (
        "Fit the isotonic regression to weighted points.",
        "Ties are averaged, e.g. by mean, before. x: Abscissas of the points, in any order. "
        "y: Targets; None repeats x. ndarray: The fitted values.",
    )


def test_google_style() -> None:
    assert query_and_passage(GOOGLE_STYLE) == (
        "Rotates half of the hidden dimensions of Llama inputs.",
        "x: The hidden states, see the guide. kind: How the halves are paired: interleaved or blocked. "
        "Tensor: The rotated states, of the same shape as x.",
    )


def test_sphinx_fields() -> None:
    doc = """Schedule the callback on the event loop thread.

    :param callback: Called once with no arguments, from the loop's own thread.
    :type callback: Callable
    :returns: A handle by which the call can still be cancelled.
    """
    assert query_and_passage(doc) == (
        "Schedule the callback on the event loop thread.",
        "callback: Called once with no arguments, from the loop's own thread. "
        "A handle by which the call can still be cancelled.",
    )


LONG = "The passage goes on about eigenvalues of sparse matrices and their bounds, at some length. "


@pytest.mark.parametrize(
    ("doc", "reason"),
    [
        ("Return self.", "passage_short"),
        ("Return self.\n\n" + LONG * 2, "query_length"),
        ("See the other function of this name.\n\n" + LONG * 2, "query_boilerplate"),
        ("Deprecated since version two of this library.\n\n" + LONG * 2, "query_boilerplate"),
        ("Write a %(klass)s object to a file.\n\n" + LONG * 2, "query_boilerplate"),
        ("x (int): the size of the thing.\n\n" + LONG * 2, "query_boilerplate"),
        (
            "Compute the eigenvalues of a matrix.\n\nToo short.\n\n>>> eig(a)\n" + "array([1, 2, 3])\n" * 9,
            "passage_short",
        ),
        ("    >>> eig(a)\n" + "array([1, 2, 3])\n" * 9, "no_prose"),
    ],
)
def test_what_says_nothing_is_refused_with_its_reason(doc: str, reason: str) -> None:
    assert query_and_passage(doc) == reason


def test_a_passage_ends_at_the_last_sentence_that_fits() -> None:
    result = query_and_passage("Compute the eigenvalues of a matrix.\n\n" + LONG * 9)
    assert not isinstance(result, str)
    assert result[1] == (LONG * 4).strip()
    assert len(result[1]) <= PASSAGE_CHARACTERS < len(LONG * 5)


def test_one_overlong_sentence_is_cut_at_a_word() -> None:
    result = query_and_passage("Compute the eigenvalues of a matrix.\n\n" + "matrix norm " * 60)
    assert not isinstance(result, str)
    assert result[1].endswith(("matrix", "norm"))
    assert len(result[1]) <= PASSAGE_CHARACTERS


def test_abbreviations_end_no_sentence() -> None:
    assert sentences("Use e.g. Adam, cf. Kingma et al. It works. (Mostly.) Done") == [
        "Use e.g. Adam, cf. Kingma et al. It works.",
        "(Mostly.)",
        "Done",
    ]
