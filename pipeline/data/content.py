"""Digests of a configuration's data, which are part of a result's name. Knows which files are read, not why."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from pipeline.config.data import DataConfig, Format, Source
from pipeline.core.errors import DataError, changed, must, one_file
from pipeline.core.fingerprint import file_digest
from pipeline.data.beir import QRELS_FILES, TRAIN_QRELS_FILES, judgements_file
from pipeline.data.packaged_docs import extract
from pipeline.data.readers import PACKED_SUFFIXES


def content_digest(
    config: DataConfig, *, source: Path | None, cache: Path, workers: int | None = None
) -> dict[str, str]:
    """Return name → SHA-256 of every local input: `packaged_docs`, or a key, with `/<file>` added for a BEIR folder.

    A hub data set has no digest here, because its commit identifies its content.

    Raises:
        DataError: if a file is missing or unreadable, or a package is not installed.
    """
    if config.source is Source.packaged_docs:
        return {"packaged_docs": extract(config.packages, cache, workers).digest} | _of_files(config, source)
    return _of_files(config, source)


def refuse_changed(config: DataConfig, before: dict[str, str], *, source: Path | None) -> None:
    """Refuse files whose digests differ from `before`: what was read may not be what those digests identify.

    Raises:
        DataError: naming the key of a file that changed or is now missing.
    """
    for name, digest in _of_files(config, source).items():
        if before.get(name) != digest:
            key, _, file = name.partition("/")
            raise changed(f"data.{key}={getattr(config, key)}{file and f', file {file}'}")


def _of_files(config: DataConfig, source: Path | None) -> dict[str, str]:
    found = {}
    if config.source is Source.local:
        found = _digests("path", source or Path(config.path or ""), config)
    if config.dev_path is not None:
        found |= _digests("dev_path", Path(config.dev_path), config)
    if config.corpus_path is not None:
        found["corpus_path"] = _file_digest(Path(config.corpus_path), "corpus_path")
    return found


def _digests(key: str, path: Path, config: DataConfig) -> dict[str, str]:
    if config.format is not Format.beir:
        return {key: _file_digest(path, key)}
    names = QRELS_FILES if key == "dev_path" else TRAIN_QRELS_FILES
    judgements = judgements_file(path, names) or names[0]
    return {f"{key}/{name}": _file_digest(path, key, name) for name in ("queries.jsonl", "corpus.jsonl", judgements)}


def _file_digest(given: Path, key: str, name: str | None = None) -> str:
    """Return the digest of the file `given` by a configuration key, or of the file `name` in the folder `given`."""
    path, thing = given, f"data.{key}={given}"
    if name is not None:
        path, thing = given / name, f"{thing}, file {name}"
    if path.exists() and not path.is_file() and not path.is_dir():  # the file is read twice, and a pipe may never end
        remedy = f"Write its content to a file and pass data.{key}=<file>."
        raise DataError(must(thing, "be a file", "a pipe or device", remedy))
    remedy = f"Correct data.{key} or data.format."
    try:
        return file_digest(path)
    except FileNotFoundError:
        if name is None and _names_several(given):
            remedy = one_file(f"data.{key}")
        if packed := [path.name + suffix for suffix in PACKED_SUFFIXES if Path(f"{path}{suffix}").is_file()]:
            remedy = f"Unpack {packed[0]} first."
        raise DataError(must(thing, "exist", "nothing there", remedy)) from None
    except IsADirectoryError:
        remedy = f"Name one file with data.{key}, several concatenated, or pass data.format=beir for the BEIR layout."
        raise DataError(must(thing, "be a file", "a folder", remedy)) from None
    except OSError as error:
        raise DataError(must(thing, "be a readable file", error.strerror or error, remedy)) from None


def _names_several(path: Path) -> bool:
    """Return whether a path is in fact a pattern or a list of names, and matches several existing files."""
    pieces = [piece for piece in re.split(r"[,;\s]+", str(path)) if piece]
    return len(glob.glob(str(path))) > 1 or (len(pieces) > 1 and all(Path(piece).is_file() for piece in pieces))
