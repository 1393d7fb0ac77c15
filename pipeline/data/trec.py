"""Runs and judgements as TREC files. Knows nothing of collections, of models or of stages.

A TREC file separates its columns by white space, so an id with white space (or another unprintable character, or none
at all) is percent-escaped on writing and restored on reading; every other id stands as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from pipeline.core.atomic import write_text
from pipeline.core.errors import DataError, must
from pipeline.core.records import Qrels, Run
from pipeline.data.tables import text_lines

EMPTY_ID = "%"
"""How an id of no characters is written: a lone percent sign, which no escape produces."""

HIGHEST_GRADE = 1000
"""Of a judgement, and of a label that becomes one: trec_eval keeps an array as long as the highest grade."""

FEWEST_RANKED, RISING_SHARE = 10, 0.9
"""Queries with several ranks of which ranks and scores are compared, and the share of them that tells of distances."""

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
        DataError: naming file, line and column of what is wrong, when the run is empty, or when nearly all
            queries' scores rise from the first rank to the last, or all are equal.
    """
    run: Run = {}
    ends: dict[str, list[tuple[int, float]]] = {}
    for number, line in text_lines(path):
        thing, columns = f"{path}, line {number}", line.split()
        if len(columns) != 6:
            remedy = "Write `query Q0 passage rank score tag`; percent-escape white space in ids."
            raise DataError(must(thing, "have 6 columns", f"{len(columns)}: {line[:80]!r}", remedy))
        query, passage = _id(columns[0], known), _id(columns[2], known)
        try:
            score = float(columns[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(must(f"{thing}, score", "be a finite number", repr(columns[4]), "Write the run again."))
        passages = run.setdefault(query, {})
        if passage in passages:
            got = f"passage {passage!r} of query {query!r} again"
            raise DataError(must(thing, "rank each passage of a query once", got, "Delete one of the two lines."))
        passages[passage] = score
        if len(columns[3]) < 19 and columns[3].isdecimal():
            here = (int(columns[3]), score)
            own = ends.setdefault(query, [here, here])
            if here < own[0]:
                own[0] = here
            elif here > own[1]:
                own[1] = here
    if not run:
        raise DataError(must(str(path), "hold at least one ranked passage", "an empty run", "Write the run again."))
    _refuse_upside_down(path, run, {q: (first[1], last[1]) for q, (first, last) in ends.items() if first[0] < last[0]})
    return {q: dict(sorted(ps.items(), key=lambda item: (-item[1], item[0]))) for q, ps in run.items()}


def _refuse_upside_down(path: Path, run: Run, ends: Mapping[str, tuple[float, float]]) -> None:
    """Refuse distances and scores that are no order, by each query's scores of its first and of its last rank.

    Old ranks beside new scores contradict these for half of the queries: only nearly all tell.
    """
    rising = sum(first < last for first, last in ends.values())
    equal = sum(len(set(run[query].values())) == 1 for query in ends)
    rule = "give the first rank a higher score than the last"
    if len(ends) >= FEWEST_RANKED and rising > RISING_SHARE * len(ends):
        got = f"scores that rise with the rank for {rising} of {len(ends)} queries"
        remedy = "The score alone orders, highest first, as in trec_eval: negate distances, or write 0 as every rank."
        raise DataError(must(str(path), rule, got, remedy))
    if len(ends) >= FEWEST_RANKED and equal == len(ends) > len(run) / 2:
        remedy = "The score alone orders, as in trec_eval: write scores that fall with the rank."
        raise DataError(must(str(path), rule, f"one score for all passages of {equal} of {len(run)} queries", remedy))


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


def read_qrels(path: Path) -> Qrels:
    """TREC judgements (`query 0 passage grade`), every id unescaped.

    Raises:
        DataError: naming file, line and column of what is wrong, or when there is no judgement.
    """
    qrels: Qrels = {}
    for number, line in text_lines(path):
        columns = line.split()
        if len(columns) != 4:
            got, remedy = f"{len(columns)}: {line[:80]!r}", "Write `query 0 passage grade`; percent-escape white space."
            raise DataError(must(f"{path}, line {number}", "have 4 columns", got, remedy))
        query, passage = unescape(columns[0]), unescape(columns[2])
        judge(qrels, query, passage, columns[3], f"{path}, line {number}")
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


def judge(qrels: Qrels, query: str, passage: str, column: str, thing: str) -> None:
    """Add one judgement whose grade is a column's text; the same twice is one, two grades for one passage are refused.

    Raises:
        DataError: naming `thing`, the file and line it stands on.
    """
    try:
        value = float(column)
        grade = int(value)
    except (ValueError, OverflowError):
        value, grade = math.nan, 0
    if grade != value or abs(grade) > HIGHEST_GRADE:
        rule = f"be a whole number up to {HIGHEST_GRADE}"
        raise DataError(must(f"{thing}, grade", rule, repr(column), "Write 0, 1, 2 …"))
    if qrels.setdefault(query, {}).setdefault(passage, grade) != grade:
        got = f"{qrels[query][passage]} and {grade} for passage {passage!r} of query {query!r}"
        raise DataError(must(thing, "give a passage one grade", got, "Delete one of the two lines."))
