"""Credentials in commands and configurations, masked before anything is recorded or shown."""

from __future__ import annotations

import logging
import re
from typing import Any

MASK = "***"
"""Text that replaces a credential."""

# `tokens` and `tokenizer` are ordinary words here (runtime.micro_batch_tokens), `token` alone is a credential.
_SECRET_KEY = re.compile(
    r"token(?!s|iz)|secret|passw|credential|(?:^|[^a-z])(?:api|access|private)?keys?(?![a-z])", re.I
)
_SECRET_VALUE = re.compile(r"\b(?:hf_[A-Za-z0-9]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,})")
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")


def _mask_value(text: str) -> str:
    return _URL_LOGIN.sub(MASK, _SECRET_VALUE.sub(MASK, text))


def masked_command(command: list[str]) -> list[str]:
    """Return the command's words with credentials masked, by key (`api_key=…`, `--token …`) and by form (`hf_…`)."""
    shown: list[str] = []
    hide_next = False
    for word in command:
        key, equals, _ = word.partition("=")
        is_secret = bool(_SECRET_KEY.search(key))
        if hide_next:
            shown.append(MASK)
        elif equals and is_secret:
            shown.append(f"{key}={MASK}")
        else:
            shown.append(_mask_value(word))
        hide_next = not hide_next and not equals and is_secret and word.startswith("--")
    return shown


def masked(value: Any, key: str = "") -> Any:
    """Return a configuration with credentials masked. Only strings are: a number or a switch is no credential."""
    if isinstance(value, dict):
        return {name: masked(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, key) for item in value]
    if isinstance(value, str):
        return MASK if value and _SECRET_KEY.search(key) else _mask_value(value)
    return value


class MaskingFormatter(logging.Formatter):
    """Log formatter that masks whatever has a credential's form: a refused value or a note may hold one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, its traceback included, with credentials masked."""
        return _mask_value(super().format(record))
