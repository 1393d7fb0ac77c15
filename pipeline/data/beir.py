"""Judged collections as folders in the BEIR layout. Knows nothing of models or of stages."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.core.errors import DataError, must
from pipeline.core.progress import counted
from pipeline.core.records import Collection, Qrels, encodable, titled
from pipeline.data.tables import Record, json_objects, text_lines
from pipeline.data.trec import judge, read_run

log = logging.getLogger(__name__)

QRELS_FILES = ("qrels/test.tsv", "qrels/dev.tsv", "qrels/train.tsv", "qrels.tsv")
"""Files in which a BEIR folder may keep its judgements; the first that exists is read, and named in the log."""

TRAIN_QRELS_FILES = ("qrels/train.tsv", "qrels/dev.tsv", "qrels/test.tsv", "qrels.tsv")
"""The same for a folder to train on: the test judgements, on which others report, come after train and dev."""

Grade = TypeVar("Grade", int, float)


def judgements_file(folder: Path, files: Sequence[str]) -> str | None:
    """Return the first of `files` that exists in a BEIR folder, or None."""
    return next((file for file in files if (folder / file).is_file()), None)


def read_beir(
    folder: Path, name: str | None = None, files: Sequence[str] = QRELS_FILES, *, is_measured: bool = True
) -> Collection:
    """Read a judged collection in the BEIR layout: `queries.jsonl`, `corpus.jsonl`, `qrels/test.tsv`, maybe `run.trec`.

    A passage is its title and its text joined by a space and stripped. Judgements come from the first of `files` that
    exists. Queries with blank text are dropped, and so are judgements and ranked passages with unknown ids; the log
    counts them. With `is_measured`, judgements of passages that the collection lacks are kept, as in BEIR's evaluation:
    no system can find them, but they count. Queries without a judgement and blank passages are kept.

    Args:
        folder: The collection's folder.
        name: The collection's name in reports; defaults to the folder's name.
        files: Paths below the folder where judgements may be found.
        is_measured: Whether the collection is evaluated as it is, rather than turned into pairs for training or the dev
            set. If so, its own run is read, and refused if broken.

    Raises:
        DataError: naming file, line, key and remedy, if a file is missing or broken, an id occurs twice, or no
            passage is judged relevant.
    """
    if not folder.is_dir():
        remedy = "Give a folder with queries.jsonl, corpus.jsonl and qrels/test.tsv."
        raise DataError(must(str(folder), "be a folder in the BEIR layout", "no folder there", remedy))
    queries = _read_texts(folder / "queries.jsonl", with_title=False)
    blank = [query for query, text in queries.items() if not text.strip()]
    if blank:
        log.warning("%s: %d queries without text dropped, first %r", folder / "queries.jsonl", len(blank), blank[0])
        queries = {query: text for query, text in queries.items() if text.strip()}
    passages = _read_texts(folder / "corpus.jsonl", with_title=True)
    empty = sum(not text.strip() for text in passages.values())
    if empty:
        log.warning("%s: %d passages have neither title nor text; kept", folder / "corpus.jsonl", empty)
    if (own := judgements_file(folder, files)) is None:
        raise DataError(must(str(folder), f"hold one of {', '.join(files)}", "none of them", "Add judgements."))
    judgements = folder / own
    given = _read_beir_qrels(judgements)
    lost = "kept" if is_measured else "dropped"
    qrels = _known_only(given, queries, passages, judgements, "judgements", lost)
    if is_measured:
        qrels = {query: grades for query, grades in given.items() if query in queries}
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        remedy = "Give at least one passage a grade of 1 or more."
        raise DataError(must(str(judgements), "judge some passage relevant", "no grade above 0", remedy))
    run = None
    if is_measured and (folder / "run.trec").is_file():
        path = folder / "run.trec"
        run = _known_only(read_run(path, queries.keys() | passages.keys()), queries, passages, path, "ranked passages")
    if is_measured and judgements.name in ("train.tsv", "dev.tsv"):
        log.warning("%s has no qrels/test.tsv: it is measured on %s", folder, judgements.name)
    log.info("%s: %d queries, %d passages, judgements of %s", folder, len(queries), len(passages), judgements.name)
    return Collection(name or folder.resolve().name, queries, passages, qrels, run)


def passage_id(record: Record) -> str | None:
    """Return a record's id, the first of `_id` and `id` that is not null, or None."""
    identifier = next((record[name] for name in ("_id", "id") if record.get(name) is not None), None)
    return None if identifier is None else encodable(str(identifier))


def read_passage(record: Record, place: str, key: str = "text", *, with_title: bool = True) -> tuple[str, str]:
    """Return a record's title and text; null is blank.

    Args:
        record: The object of one line.
        place: The file and line, for error messages.
        key: The key of the text.
        with_title: Whether to read the title.

    Raises:
        DataError: if the record lacks the key, or its text or title is not a string.
    """
    if key not in record:
        remedy = 'Write {"text": …} on each line.'
        raise DataError(must(f"{place}, key {key}", "be present", f"only the keys {sorted(record)}", remedy))
    title, text = record.get("title") if with_title else None, record[key]
    for name, part in (("title", title), (key, text)):
        if not isinstance(part, str | None):
            raise DataError(must(f"{place}, key {name}", "be text", repr(part), "Put it in quotes."))
    return title or "", text or ""


def _read_texts(path: Path, *, with_title: bool) -> dict[str, str]:
    """Read `queries.jsonl` or `corpus.jsonl` as id → text, in the file's order. A null text counts as blank."""
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, row in counted(json_objects(path), f"reading {path.name}"):
        place = f"{path}, line {number}"
        identifier = row.get("_id")
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            got = repr(identifier) if "_id" in row else f"only the keys {sorted(row)}"
            raise DataError(must(f"{place}, key _id", "be text or a whole number", got, "Give every line its id."))
        title, text = read_passage(row, place, with_title=with_title)
        identifier = encodable(str(identifier))
        if identifier in texts:
            got = f"{identifier!r} again (first on line {lines[identifier]})"
            raise DataError(must(f"{place}, key _id", "be unique", got, "Rename or delete one of the two."))
        texts[identifier], lines[identifier] = encodable(titled(title, text)), number
    if not texts:
        raise DataError(must(str(path), "hold at least one line", "an empty file", "Check the collection."))
    return texts


def _read_beir_qrels(path: Path) -> Qrels:
    """Read tab-separated `query-id corpus-id score`. A first line whose score is not a number is the header."""
    qrels: Qrels = {}
    for index, (number, line) in enumerate(text_lines(path)):
        columns = line.split("\t")
        if len(columns) != 3:
            got, remedy = f"{len(columns)}: {line[:80]!r}", "Write `query-id<tab>corpus-id<tab>score`."
            raise DataError(must(f"{path}, line {number}", "have 3 columns between tabs", got, remedy))
        if index == 0 and not re.fullmatch(r"\s*[-+]?[0-9.]+\s*", columns[2]):
            continue
        judge(qrels, columns[0], columns[1], columns[2], f"{path}, line {number}")
    return qrels


def _known_only(
    table: Mapping[str, Mapping[str, Grade]],
    queries: Container[str],
    passages: Container[str],
    path: Path,
    what: str,
    lost: str = "dropped",
) -> dict[str, dict[str, Grade]]:
    """Return the entries whose query and passage are in the collection, and log the number of the others.

    `lost` is the word in the log for what the caller does with entries whose passage is unknown.

    Raises:
        DataError: if no entry is left.
    """
    kept: dict[str, dict[str, Grade]] = {}
    unknown: Counter[str] = Counter()
    example = ""
    for query, entries in table.items():
        for passage, value in entries.items():
            if query in queries and passage in passages:
                kept.setdefault(query, {})[passage] = value
            else:
                side = "query" if query not in queries else "passage"
                unknown[side] += 1
                example = example or f"{side} {(query if side == 'query' else passage)!r}"
    if not kept:
        remedy = "Use the ids of queries.jsonl and corpus.jsonl."
        raise DataError(must(str(path), f"hold {what} with the collection's ids", f"none, first {example}", remedy))
    if unknown:
        message = "%s: %d %s with unknown queries dropped and %d with unknown passages %s, first %s"
        log.warning(message, path, unknown["query"], what, unknown["passage"], lost, example)
    return kept
