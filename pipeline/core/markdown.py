"""Text from data, made safe for a page: in Markdown prose and tables, in Python and JSON blocks. Pure."""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import Any

MAX_CHARACTERS = 2000
"""Longer texts are cut in the card; the data keeps them whole."""

# An underscore inside a word is plain text to Markdown; at a word's edge it starts emphasis.
_SPECIAL = re.compile(r"[&<>`|*\[\]\\~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# A path that starts at the root, at home or with dots, alone or after `=`, `[` or a comma.
_PLACE = re.compile(r"(?:^|(?<=[=\[,\"' ]))(?:~|\.\.?)?/[^,\]\"']*")


def escape(value: object) -> str:
    """Return Markdown that shows exactly this text on one line, in prose and in table cells."""
    text = _CONTROL.sub("", " ".join(str(value).split()))
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", text)


def sample(value: object) -> str:
    """Cut a text from data to `MAX_CHARACTERS` characters and `escape` it."""
    return escape(_cut(str(value)))


def literal(text: str) -> str:
    """Return a text as a Python literal, cut, with `<` escaped so that no page can take it for a tag."""
    return repr(_cut(text)).replace("<", "\\x3c")


def as_json(value: object) -> str:
    """Return a value as JSON for a code block, with `<` escaped."""
    return json.dumps(value, indent=4, ensure_ascii=False).replace("<", "\\u003c")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"


def without_places(value: Any) -> Any:
    """Return a value with every path of this machine cut to its last part, also in lists and `key=<path>` words."""
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    if not isinstance(value, str):
        return value
    return _PLACE.sub(lambda match: PurePath(match[0]).name, value)
