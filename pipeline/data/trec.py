"""Runs and judgements as TREC files. Knows nothing of collections, of models or of stages.

White space separates the columns of a TREC file. An id that is empty or contains white space or an unprintable
character is therefore percent-escaped on writing and restored on reading; every other id is written unchanged, unless
reading would take it for an escaped one.
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
"""Written form of the empty id: a lone percent sign, which no escape produces."""

HIGHEST_GRADE = 1000
"""Limit on the grade of a judgement, or of a label that becomes one: trec_eval allocates an array of this length."""

FEWEST_RANKED, RISING_SHARE = 10, 0.9
"""Fewest queries with several ranks to check scores against ranks, and the share with rising scores that is refused."""

_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


def escape(identifier: str) -> str:
    """Return an id as one TREC column, from which `unescape` restores it exactly.

    Unprintable characters, the space and the percent sign become `%XX` per UTF-8 byte, but only in an id that needs
    escaping: a printable id without spaces that `unescape` leaves unchanged is not escaped (`50%`, `a/b`, `../x`).
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
    """Return the id that a TREC column stands for. Invalid escapes stay unchanged."""

    def restore(match: re.Match[str]) -> str:
        try:
            return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return match[0]

    return "" if column == EMPTY_ID else _ESCAPES.sub(restore, column)


def _id(column: str, known: Container[str]) -> str:
    return column if column in known else unescape(column)


def read_run(path: Path, known: Container[str] = ()) -> Run:
    """Read a TREC run (`query Q0 passage rank score tag`) as query id → passage id → score.

    Queries are in the order of their first line, the passages of a query by descending score, ties by ascending id.
    Neither the order of a query's lines nor the rank column affects this order; trec_eval ignores both too.

    Args:
        path: The run file.
        known: Ids of the collection that the run belongs to. A column that is one of them is not unescaped, so that
            the percent signs of a foreign run survive. By default every column is unescaped.

    Raises:
        DataError: naming file, line and column, if a line is wrong; if the run is empty; or if the scores of nearly
            all queries rise from the first rank to the last, or each query gives all its passages one score.
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
    """Refuse a run whose scores are distances or do not rank, given each query's scores at its first and last rank.

    In a rescored run that keeps its old ranks, scores rise for about half of the queries: only a share near 1 shows
    distances.
    """
    rising = sum(first < last for first, last in ends.values())
    equal = sum(len(set(run[query].values())) == 1 for query in ends)
    rule = "give the first rank a higher score than the last"
    if len(ends) >= FEWEST_RANKED and rising > RISING_SHARE * len(ends):
        got = f"scores that rise with the rank for {rising} of {len(ends)} queries"
        remedy = (
            "Only scores decide the order, highest first, as in trec_eval: negate distances, or write 0 as every rank."
        )
        raise DataError(must(str(path), rule, got, remedy))
    if len(ends) >= FEWEST_RANKED and equal == len(ends) > len(run) / 2:
        remedy = "Only scores decide the order, as in trec_eval: write scores that fall with the rank."
        raise DataError(must(str(path), rule, f"one score for all passages of {equal} of {len(run)} queries", remedy))


def write_run(path: Path, run_in_order: Mapping[str, Sequence[str]], tag: str) -> None:
    """Write rankings, best first, as a TREC run whose scores any tool sorts back into the same order.

    The scores of a ranking of n passages are n, n - 1, …, 1, so they decrease strictly and are exact as floats. Queries
    are in the mapping's order; a query without passages has no line.

    Raises:
        ValueError: if a ranking names a passage twice.
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
    """Read TREC judgements (`query 0 passage grade`), with every id unescaped.

    Raises:
        DataError: naming file, line and column, if a line is wrong, or if there is no judgement.
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
    """Write judgements as TREC lines in the mapping's order, including grades of 0 and below."""
    lines = [
        f"{escape(query)} 0 {escape(passage)} {grade}\n"
        for query, grades in qrels.items()
        for passage, grade in grades.items()
    ]
    write_text(path, "".join(lines))


def judge(qrels: Qrels, query: str, passage: str, column: str, thing: str) -> None:
    """Add one judgement, parsing its grade from the text `column`. A repeated judgement counts once.

    Raises:
        DataError: naming `thing` (the file and line), if the grade is no whole number up to `HIGHEST_GRADE` or differs
            from the passage's earlier grade.
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
