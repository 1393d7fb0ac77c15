"""Fingerprints that name artefacts: hashes of canonical JSON, of texts and of files. Imports no torch."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.upkeep import spent

LENGTH = 12
"""Hexadecimal digits kept of a fingerprint: 48 bits, enough for any number of runs on one disk."""


def plain(value: Any) -> Any:
    """Reduce dataclasses, enums and paths to JSON types; refuse whatever has no stable form.

    Raises:
        TypeError: for anything without an obvious canonical form (sets, arbitrary objects, NaN).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise TypeError(f"{value!r} has no canonical form")


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, floats as Python prints them."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def fingerprint(value: Any) -> str:
    """Return the first `LENGTH` hexadecimal digits of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:LENGTH]


@spent("hash")
def text_digest(texts: Iterable[str]) -> str:
    """Return the sha256 over texts in order, each preceded by its byte length so that no two lists collide."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def file_state(path: Path) -> list[int]:
    """Return numbers that change with a file's content: size, modification and status change time, inode.

    Tools restore the modification time (`cp -p`, `rsync -t`), but none the status change time.
    """
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


@spent("hash")
def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, read in pieces.

    Raises:
        OSError: when the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def slug(text: str) -> str:
    """Return a readable, path-safe form of a name: letters, digits, `.`, `_` and `-`, never `.` or `..`."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
    return cleaned[:60] or "unnamed"
