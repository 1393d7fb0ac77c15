"""Runs, judgements and collections as files: TREC and BEIR layouts. Knows nothing of models or of stages.

A TREC file separates its columns by white space, so an id with white space (or another unprintable character, or none
at all) is percent-escaped on writing and restored on reading; every other id stands as it is.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.artifacts import write_text
from pipeline.core.errors import DataError, must
from pipeline.core.records import Collection, Qrels, Run
from pipeline.data.tables import decoded_lines

log = logging.getLogger(__name__)

EMPTY_ID = "%"
"""How an id of no characters is written: a lone percent sign, which no escape produces."""

QRELS_FILES = ("qrels/test.tsv", "qrels/dev.tsv", "qrels/train.tsv", "qrels.tsv")
"""Where a BEIR folder may keep its judgements; the first that exists is read, and said."""

TRAIN_QRELS_FILES = ("qrels/train.tsv", "qrels/dev.tsv", "qrels/test.tsv", "qrels.tsv")
"""The same of a folder that is trained on: what others report on is taken last."""

HIGHEST_GRADE = 1000
"""Of a judgement, and of a label that becomes one: trec_eval keeps an array as long as the highest grade."""

Grade = TypeVar("Grade", int, float)

_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


def escape(identifier: str) -> str:
    """An id as one TREC column; `unescape` gives it back exactly.

    Unprintable characters, the space and the percent sign become `%XX` per UTF-8 byte, but only in an id that needs
    it: one that is free of white space and reads back as itself is left alone (`50%`, `a/b`, `../x`).
    """
    if not identifier:
        return EMPTY_ID
    if all(c != " " and c.isprintable() for c in identifier) and unescape(identifier) == identifier:
        return identifier
    return "".join(
        "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
        if c in " %" or not c.isprintable()
        else c
        for c in identifier
    )


def unescape(column: str) -> str:
    """The id behind a TREC column; what is no valid escape stays as it is."""

    def restore(match: re.Match[str]) -> str:
        try:
            return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return match[0]

    return "" if column == EMPTY_ID else _ESCAPES.sub(restore, column)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not blank, without its end; refusals as `decoded_lines`."""
    for number, line in decoded_lines(path):
        if line.strip():
            yield number, line.rstrip("\r\n")


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line of a JSON-lines file, blank lines passed over.

    Raises:
        DataError: when the file cannot be read, or a line is not UTF-8 or not one JSON object.
    """
    for number, line in text_lines(path):
        thing = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(must(thing, "be one JSON object", f"{line[:80]} ({error})", "Repair the line.")) from None
        if not isinstance(value, dict):
            raise DataError(must(thing, "be one JSON object", line[:80], 'Write {"key": value, …} on each line.'))
        yield number, value


def _id(column: str, known: Container[str]) -> str:
    return column if column in known else unescape(column)


def read_run(path: Path, known: Container[str] = ()) -> Run:
    """A TREC run (`query Q0 passage rank score tag`) as query id → passage id → score.

    Queries stand in the order of their first line; each one's passages by score descending, ties by id ascending,
    whatever the order of the lines or the rank column (as trec_eval, which ignores both).

    Args:
        path: The run file.
        known: Ids of the collection the run belongs to: a column that is one of them is taken as it stands, so that
            a foreign run's own percent signs survive. Without it every column is unescaped.

    Raises:
        DataError: naming file, line and column of what is wrong, or when the run is empty.
    """
    run: Run = {}
    for number, line in text_lines(path):
        thing, columns = f"{path}, line {number}", line.split()
        if len(columns) != 6:
            remedy = "Write `query Q0 passage rank score tag`; percent-escape white space in ids."
            raise DataError(must(thing, "have 6 columns", f"{len(columns)}: {line[:80]}", remedy))
        query, passage = _id(columns[0], known), _id(columns[2], known)
        try:
            score = float(columns[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(must(f"{thing}, score", "be a finite number", columns[4], "Write the run again."))
        passages = run.setdefault(query, {})
        if passage in passages:
            got = f"passage {passage!r} of query {query!r} again"
            raise DataError(must(thing, "rank each passage of a query once", got, "Delete one of the two lines."))
        passages[passage] = score
    if not run:
        raise DataError(must(str(path), "hold at least one ranked passage", "an empty run", "Write the run again."))
    return {q: dict(sorted(ps.items(), key=lambda item: (-item[1], item[0]))) for q, ps in run.items()}


def write_run(path: Path, run_in_order: Mapping[str, Sequence[str]], tag: str) -> None:
    """Write rankings, best first, as a TREC run whose scores any tool sorts back into the same order.

    The scores are the passages left from here on (n, n - 1, …, 1 for a ranking of n), so they decrease strictly and
    are exact in any float format. Queries stand in the mapping's order; one with no passages leaves no line.

    Raises:
        ValueError: when a ranking names a passage twice.
    """
    lines = []
    for query, ranking in run_in_order.items():
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"the ranking of query {query!r} names a passage twice")
        lines += [
            f"{escape(query)} Q0 {escape(passage)} {rank} {len(ranking) - rank + 1} {escape(tag)}\n"
            for rank, passage in enumerate(ranking, start=1)
        ]
    write_text(path, "".join(lines))


def read_qrels(path: Path, known: Container[str] = ()) -> Qrels:
    """TREC judgements (`query 0 passage grade`); `known` as in `read_run`.

    Raises:
        DataError: naming file, line and column of what is wrong, or when there is no judgement.
    """
    qrels: Qrels = {}
    for number, line in text_lines(path):
        columns = line.split()
        if len(columns) != 4:
            got, remedy = f"{len(columns)}: {line[:80]}", "Write `query 0 passage grade`; percent-escape white space."
            raise DataError(must(f"{path}, line {number}", "have 4 columns", got, remedy))
        query, passage = _id(columns[0], known), _id(columns[2], known)
        _judge(qrels, query, passage, columns[3], f"{path}, line {number}")
    if not qrels:
        raise DataError(must(str(path), "hold at least one judgement", "none", "Check the file."))
    return qrels


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Write judgements as TREC lines, in the mapping's order, grades of 0 and below included."""
    lines = [
        f"{escape(query)} 0 {escape(passage)} {grade}\n"
        for query, grades in qrels.items()
        for passage, grade in grades.items()
    ]
    write_text(path, "".join(lines))


def _judge(qrels: Qrels, query: str, passage: str, column: str, thing: str) -> None:
    """Add one judgement; the same twice is one, two grades for one passage are refused."""
    try:
        value = float(column)
        grade = int(value)
    except (ValueError, OverflowError):
        value, grade = math.nan, 0
    if grade != value or abs(grade) > HIGHEST_GRADE:
        rule = f"be a whole number up to {HIGHEST_GRADE}"
        raise DataError(must(f"{thing}, grade", rule, column, "Write 0, 1, 2 …"))
    if qrels.setdefault(query, {}).setdefault(passage, grade) != grade:
        got = f"{qrels[query][passage]} and {grade} for passage {passage!r} of query {query!r}"
        raise DataError(must(thing, "give a passage one grade", got, "Delete one of the two lines."))


def judgements_of(folder: Path, files: Sequence[str]) -> str | None:
    """The first of `files` that a BEIR folder has; None: none of them."""
    return next((file for file in files if (folder / file).is_file()), None)


def read_beir(folder: Path, name: str | None = None, files: Sequence[str] = QRELS_FILES) -> Collection:
    """A judged collection in the BEIR layout: `queries.jsonl`, `corpus.jsonl`, `qrels/test.tsv`, maybe `run.trec`.

    A passage is its title and its text joined by a space, outer white space cut. Judgements come from the first of
    `files`. Judgements and ranked passages of ids the collection lacks are dropped, and queries of blank text
    with them; how many is logged. Queries without a judgement stay. Blank passages stay: they are the collection's own.

    Args:
        folder: The collection's folder.
        name: The name it goes by in reports; the folder's own without it.
        files: Where its judgements may stand, below the folder.

    Raises:
        DataError: naming file, line, key and remedy: a missing or broken file, an id twice, or nothing left to judge.
    """
    if not folder.is_dir():
        remedy = "Give a folder with queries.jsonl, corpus.jsonl and qrels/test.tsv."
        raise DataError(must(str(folder), "be a folder in the BEIR layout", "no folder there", remedy))
    queries = _read_texts(folder / "queries.jsonl", with_title=False)
    blank = [query for query, text in queries.items() if not text.strip()]
    if blank:
        log.warning("%s: %d queries of blank text dropped, first %r", folder / "queries.jsonl", len(blank), blank[0])
        queries = {query: text for query, text in queries.items() if text.strip()}
    passages = _read_texts(folder / "corpus.jsonl", with_title=True)
    empty = sum(not text.strip() for text in passages.values())
    if empty:
        log.warning("%s: %d passages have neither title nor text; kept", folder / "corpus.jsonl", empty)
    if (own := judgements_of(folder, files)) is None:
        raise DataError(must(str(folder), f"hold one of {', '.join(files)}", "none of them", "Add judgements."))
    judgements = folder / own
    qrels = _known_only(_read_beir_qrels(judgements), queries, passages, judgements, "judgements")
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        remedy = "Judge at least one passage 1 or more."
        raise DataError(must(str(judgements), "judge some passage relevant", "no grade above 0", remedy))
    run = None
    if (folder / "run.trec").is_file():
        path = folder / "run.trec"
        run = _known_only(read_run(path, queries.keys() | passages.keys()), queries, passages, path, "ranked passages")
    log.info("%s: %d queries, %d passages, judgements of %s", folder, len(queries), len(passages), judgements.name)
    return Collection(name or folder.resolve().name, queries, passages, qrels, run)


def _read_texts(path: Path, *, with_title: bool) -> dict[str, str]:
    """Id → text of a `queries.jsonl` or `corpus.jsonl`, in the file's order; a null text counts as blank."""
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, row in json_objects(path):
        thing = f"{path}, line {number}, key"
        identifier = row.get("_id")
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            got = identifier if "_id" in row else f"only the keys {sorted(row)}"
            raise DataError(must(f"{thing} _id", "be text or a whole number", got, "Give every line its id."))
        if "text" not in row:
            raise DataError(must(f"{thing} text", "be there", f"only the keys {sorted(row)}", "Add it."))
        parts = [row.get("title") or "", row["text"] or ""] if with_title else [row["text"] or ""]
        for key, part in zip(["title", "text"] if with_title else ["text"], parts, strict=True):
            if not isinstance(part, str):
                raise DataError(must(f"{thing} {key}", "be text", part, "Put it in quotes."))
        identifier = str(identifier)
        if identifier in texts:
            got = f"{identifier!r} again (first on line {lines[identifier]})"
            raise DataError(must(f"{thing} _id", "be distinct", got, "Rename or delete one of the two."))
        texts[identifier], lines[identifier] = " ".join(part for part in parts if part).strip(), number
    if not texts:
        raise DataError(must(str(path), "hold at least one line", "an empty file", "Check the collection."))
    return texts


def _read_beir_qrels(path: Path) -> Qrels:
    """Tab-separated `query-id corpus-id score`; a first line whose score is no number is its header."""
    qrels: Qrels = {}
    for index, (number, line) in enumerate(text_lines(path)):
        columns = line.split("\t")
        if len(columns) != 3:
            got, remedy = f"{len(columns)}: {line[:80]}", "Write `query-id<tab>corpus-id<tab>score`."
            raise DataError(must(f"{path}, line {number}", "have 3 columns between tabs", got, remedy))
        if index == 0 and not re.fullmatch(r"\s*[-+]?[0-9.]+\s*", columns[2]):
            continue
        _judge(qrels, columns[0], columns[1], columns[2], f"{path}, line {number}")
    return qrels


def _known_only(
    table: Mapping[str, Mapping[str, Grade]],
    queries: Container[str],
    passages: Container[str],
    path: Path,
    what: str,
) -> dict[str, dict[str, Grade]]:
    """The entries whose query and passage the collection has; the others are counted in the log.

    Raises:
        DataError: when none is left.
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
        remedy = "Check that the ids are those of queries.jsonl and corpus.jsonl."
        raise DataError(must(str(path), f"hold {what} of the collection's own ids", f"none, first {example}", remedy))
    if unknown:
        message = "%s: %d %s of unknown queries and %d of unknown passages dropped, first %s"
        log.warning(message, path, unknown["query"], what, unknown["passage"], example)
    return kept
