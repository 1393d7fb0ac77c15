"""Query/passage pairs from the docstrings of installed libraries: which files are read, which pairs stay, the cache.

Knows where packages are installed and how the cache file is stored; does not know how sources are parsed, nor how pairs
are split or used.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import packages
from pipeline.core.atomic import write_bytes
from pipeline.core.errors import DataError, must
from pipeline.core.fingerprint import canonical_json, fingerprint, text_digest
from pipeline.core.records import PairRows, fold
from pipeline.data.near_duplicates import NearDuplicates
from pipeline.data.python_sources import Pair, read_sources

log = logging.getLogger(__name__)

VERSION = 2
"""Part of the cache file's name: raise it when the same packages would give different pairs."""

SKIPPED_FOLDERS = {
    "tests",
    "test",
    "testing",
    "_testing",
    "conftest",
    "vendored",
    "_vendor",
    "externals",
    "third_party",
}
COMMON_QUERY = 4
"""A first sentence that this many docstrings share is too general to be a query."""


@dataclass(slots=True)
class Extraction:
    """Extracted pairs, with counts of the docstrings read and of those dropped, by reason."""

    rows: PairRows
    counts: dict[str, int]
    digest: str


def extract(names: list[str], cache: Path, workers: int | None = None) -> Extraction:
    """Return the distinct pairs of the named packages, in the order of packages, modules and lines.

    Args:
        names: import names; their order decides which of two near-duplicates stays.
        cache: folder of the cache file, whose name holds the packages' versions.
        workers: number of processes; None uses every CPU available to this process. The result does not depend on it.

    Raises:
        DataError: when a package is not installed.
    """
    folders = {package: _folder(package) for package in dict.fromkeys(names)}
    versions = {package: _version(package, folder) for package, folder in folders.items()}
    path = cache / f"packaged-docs-{fingerprint([VERSION, list(versions.items())])}.jsonl"
    cached = _read(path)
    if cached is not None:
        return cached
    log.info("reading the docstrings of %s", ", ".join(f"{name} {version}" for name, version in versions.items()))
    files = [entry for package, folder in folders.items() for entry in _sources(package, folder)]
    pairs, counts = read_sources(files, workers or len(os.sched_getaffinity(0)))
    kept = _distinct(pairs, counts)
    rows = PairRows(
        questions=[pair[0] for pair in kept],
        answers=[pair[1] for pair in kept],
        groups=[pair[2] for pair in kept],
        lines=[pair[3] for pair in kept],
    )
    extraction = Extraction(rows, dict(sorted(counts.items())), _digest(rows))
    _write(path, extraction)
    log.info("%d pairs from %d docstrings in %d modules", len(rows), counts["docstrings"], len(set(rows.groups or [])))
    return extraction


def _folder(package: str) -> Path:
    """Return the folder that holds an installed package's sources."""
    folder = packages.folder_of(package)
    if folder is None:
        remedy = "Run `make setup`, or remove it from data.packages."
        raise DataError(must("data.packages", "name installed packages", repr(package), remedy))
    return folder


def _version(package: str, folder: Path) -> str:
    """Return the installed version or, for a package without metadata, a digest of its files' names and sizes."""
    version = packages.version_of(package)
    if version is not None:
        return version
    files = sorted(folder.rglob("*.py"))
    return "files-" + fingerprint([[str(path.relative_to(folder)), path.stat().st_size] for path in files])


def _sources(package: str, folder: Path) -> list[tuple[str, str]]:
    """Return the module names and paths of a package's sources, sorted by module, without tests and vendored code."""
    found = []
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if SKIPPED_FOLDERS.isdisjoint(parts) and not parts[-1].startswith("test_"):
            names = parts[:-1] if parts[-1] == "__init__" else parts
            found.append((".".join((package, *names)), str(path)))
    return sorted(found)


def _distinct(pairs: list[Pair], counts: Counter[str]) -> list[Pair]:
    """Keep, in order, the pairs with a specific query and no near-duplicate of an earlier pair's query or passage."""
    queries = [fold(pair[0]) for pair in pairs]
    passages = [fold(pair[1]) for pair in pairs]
    openings = Counter(query for query, _ in dict.fromkeys(zip(queries, passages, strict=True)))
    same_query, same_passage = NearDuplicates(queries), NearDuplicates(passages)
    kept, seen = [], set()
    for row, pair in enumerate(pairs):
        if openings[queries[row]] >= COMMON_QUERY:
            counts["common_query"] += 1
        elif queries[row] in seen:
            counts["duplicate_query"] += 1
        elif same_query.has(row):
            counts["near_duplicate_query"] += 1
        elif same_passage.has(row):
            counts["near_duplicate_passage"] += 1
        else:
            seen.add(queries[row])
            same_query.keep(row)
            same_passage.keep(row)
            kept.append(pair)
    return kept


def _digest(rows: PairRows) -> str:
    groups = rows.groups or []
    columns = zip(rows.questions, rows.answers, groups, map(str, rows.lines), strict=True)
    return text_digest(text for row in columns for text in row)


def _seal(extraction: Extraction) -> str:
    return text_digest([extraction.digest, canonical_json(extraction.counts)])


def _write(path: Path, extraction: Extraction) -> None:
    rows = extraction.rows
    columns = zip(rows.questions, rows.answers, rows.groups or [], rows.lines, strict=True)
    header = {"digest": extraction.digest, "counts": extraction.counts, "seal": _seal(extraction)}
    lines = [json.dumps(header), *map(json.dumps, columns)]
    write_bytes(path, "\n".join(lines).encode() + b"\n")


def _read(path: Path) -> Extraction | None:
    """Return the pairs of a cache file, or None if the file is missing or damaged."""
    try:
        header, *lines = path.read_bytes().splitlines()
        stated = json.loads(header)
        columns = [json.loads(line) for line in lines]
        questions, answers, groups, numbers = (list(column) for column in zip(*columns, strict=True))
        rows = PairRows(questions=questions, answers=answers, groups=groups, lines=numbers)
        extraction = Extraction(rows, stated["counts"], stated["digest"])
        intact = _digest(rows) == extraction.digest and _seal(extraction) == stated["seal"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        log.warning("%s is damaged and is written again", path)
        return None
    return extraction
