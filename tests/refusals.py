"""What every error for users must be."""

from __future__ import annotations


def one_line_refusal(error: BaseException) -> str:
    """Return an error's message: one printable line that states a rule, without the traceback of its cause."""
    message = str(error)
    assert "\n" not in message and " must " in message and message.isprintable(), repr(message)
    assert error.__suppress_context__ or error.__context__ is None, "its cause would be printed before it"
    return message
