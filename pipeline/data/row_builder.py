"""Check question/answer rows one by one and collect them as columns. Knows keys and types; reads no files."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.config.data import DataConfig, Format
from pipeline.core.errors import DataError, must
from pipeline.core.records import PairRows, encodable, fold
from pipeline.data.tables import Record
from pipeline.data.trec import HIGHEST_GRADE

log = logging.getLogger(__name__)

PUT_RIGHT = {
    "texts_with_nul": "texts with NUL (now a space)",
    "texts_with_lone_surrogate": "texts with half a surrogate pair (now U+FFFD)",
    "blank_negatives_dropped": "blank negatives (dropped)",
    "rows_without_group": "rows without a group (now each in its own)",
}
"""Name of a count of repairs in rows that are kept → its wording in the log."""


_LABELS = """labels relevance relevant is_relevant rel score grade rating stars judgement judgment correct is_correct
    accepted is_accepted click clicks clicked is_clicked target y"""
TELLING = {
    **dict.fromkeys(_LABELS.split(), "label"),
    **dict.fromkeys(("negative", "hard_negative", "hard_negatives", "neg"), "negatives"),
}
"""Usual names of columns that say which answers are wrong → what they hold. Such a column may mean something else."""

GRADES = {0, 1, 2, 3, 4}
"""Values of a column that is taken for judgements whatever its name, if 0 and another one occur."""

FEW_VALUES = 20
"""An unread column is looked at until it has more distinct values than this: so many are texts, numbers or ids."""


def unread_columns(config: DataConfig) -> dict[str, str]:
    """Return the columns that `data.format=pairs` ignores although they may say which rows are no positives.

    Each maps to the remedy for a source that has this column.
    """
    if config.format is not Format.pairs:
        return {}
    meant = {
        config.label_column: ("label_column", "labelled"),
        config.negatives_column: ("negatives_column", "negatives"),
    }
    other = {config.question_column, config.answer_column, config.group_column}
    return {
        column: f"Pass data.format={name}, or data.{key}=<another name> if it means something else."
        for column, (key, name) in meant.items()
        if column not in other
    }


def unread(source: str, column: str, remedies: Mapping[str, str]) -> DataError:
    """Return the error for a source with a column of `unread_columns`."""
    return DataError(must("data.format", f"read the column {column!r} of {source}", "'pairs'", remedies[column]))


def _number(value: Any) -> float | None:
    """Return a value as a number, also where it is text; None if it is none."""
    try:
        return float({"true": 1, "false": 0}.get(str(value).strip().lower(), value))
    except (TypeError, ValueError, OverflowError):
        return None


def _may_judge(values: Collection[Any], *, is_named: bool) -> bool:
    """Return whether an unread column, by its distinct values, may say which answers are wrong.

    With a usual name (`is_named`) it may if it holds different numbers, zeros, or few different texts. With any other
    name it may only if it holds nothing but grades, zero among them.
    """
    given = {_number(value) for value in values if value not in (None, "")}
    if is_named:
        return len(values) <= FEW_VALUES if None in given else len(given) > 1 or 0 in given
    return 0 in given and len(given) > 1 and given <= GRADES


def _are_rows(values: list[Any]) -> bool:
    """Return whether a list consists of objects, as if one object held a whole file."""
    return bool(values) and all(isinstance(value, dict) for value in values)


def mended(text: str, counts: Counter[str]) -> str:
    """Return the text in a form that UTF-8 can encode, and count repairs in `counts`."""
    counts["texts_with_nul"] += "\0" in text
    found = encodable(text)
    counts["texts_with_lone_surrogate"] += found != text.replace("\0", " ")
    return found


class RowBuilder:
    """Collects rows in order: `rows` holds the columns so far, `counts` what was repaired.

    Errors name `source`. With `from_text`, every value is text, even numbers and lists (CSV).
    """

    def __init__(self, config: DataConfig, source: str, *, from_text: bool) -> None:
        self._config, self._source, self._from_text = config, source, from_text
        self._unread = unread_columns(config)
        self._meant = TELLING | {config.label_column.lower(): "label", config.negatives_column.lower(): "negatives"}
        self._settled: set[str | None] = {config.question_column, config.answer_column, config.group_column}
        self._seen: dict[str, set[Any]] = {}  # distinct values of unread columns, as far as they were looked at
        self.counts: Counter[str] = Counter()
        labelled, listed = config.format is Format.labelled, config.format is Format.negatives
        grouped = config.group_column is not None
        self.rows = PairRows(
            [], [], [], [] if labelled else None, [] if listed else None, groups=[] if grouped else None
        )

    def add(self, line: int, record: Record) -> None:
        """Add one row.

        Raises:
            DataError: if a key is missing, a value has the wrong type, or a column of `unread_columns` is present.
        """
        config, rows = self._config, self.rows
        if config.format is Format.pairs:
            self._watch(record)
        rows.questions.append(self._text(line, record, "question_column", config.question_column))
        rows.answers.append(self._text(line, record, "answer_column", config.answer_column))
        rows.lines.append(line)
        if rows.labels is not None:
            rows.labels.append(self._label(line, record))
        if rows.negatives is not None:
            rows.negatives.append(self._negatives(line, record))
        if rows.groups is not None and config.group_column is not None:
            group = self._value(line, record, "group_column", config.group_column)
            if group is None or group != group or not fold(str(group)):  # NaN differs from itself
                self.counts["rows_without_group"] += 1
                group = f"row {line}"
            rows.groups.append(encodable(str(group)))

    def watches(self, column: str, is_number: bool) -> bool:
        """Return whether `add` looks at a column that is not read: it is refused, or may still be one of judgements."""
        if self._config.format is not Format.pairs or column in self._settled:
            return False
        return is_number or column in self._unread or column.lower() in self._meant

    def _watch(self, record: Record) -> None:
        """Refuse the columns of `unread_columns`, and note the values of other unread ones that may be judgements."""
        for column in [column for column in record if column not in self._settled]:
            if column in self._unread:
                raise unread(self._source, column, self._unread)
            values, value = self._seen.setdefault(column, set()), record[column]
            if value == value:  # NaN differs from itself
                values.add(str(value) if isinstance(value, list | dict) else value)
            if len(values) > FEW_VALUES:
                self._settled.add(column)

    def say_unread(self) -> None:
        """Warn about unread columns whose names or values suggest that they say which answers are wrong."""
        held = {column: self._meant.get(column.lower()) for column in self._seen}
        judging = [c for c, values in self._seen.items() if _may_judge(values, is_named=held[c] == "label")]
        judging.sort(key=lambda column: held[column] != "label")
        listing = [column for column, what in held.items() if what == "negatives" and column not in judging]
        for told, name, key in ((judging, "labelled", "label"), (listing, "negatives", "negatives")):
            if told:
                log.warning(
                    "%s: ignored %s, so every row counts as a right answer. If it marks wrong ones, pass data.format=%s"
                    " data.%s_column=%s", self._source, ", ".join(map(repr, told)), name, key, told[0],
                )  # fmt: skip

    def _text(self, line: int, record: Record, key: str, column: str) -> str:
        """Return the text in a row's `column`, which the configuration key `key` names. Null counts as blank."""
        value = self._value(line, record, key, column)
        if value is None:
            return ""
        if not isinstance(value, str):
            remedy = f"Write it as a string, or name another key: data.{key}."
            raise self._wrong(line, column, "be text", value, remedy)
        return mended(value, self.counts)

    def _value(self, line: int, record: Record, key: str, column: str) -> Any:
        if column not in record:
            got = ", ".join(map(repr, record)) or "no key"
            if self.rows.lines[:1] not in ([], [line]):
                remedy = f"Earlier lines have it: add it to this one (data.{key} names the key)."
            elif nested := [name for name, value in record.items() if isinstance(value, list) and _are_rows(value)]:
                remedy = f"Write one object per line: jq -c '.{nested[0]}[]' <file> > lines.jsonl"
            else:
                remedy = f"Name the key that holds it: data.{key}=<key>."
            raise DataError(must(f"{self._source}, line {line}", f"have the key {column!r}", got, remedy))
        return record[column]

    def _wrong(self, line: int, column: str, rule: str, value: object, remedy: str) -> DataError:
        shown = f"{type(value).__name__} {json.dumps(value, default=str)[:80]}"
        return DataError(must(f"{self._source}, line {line}, key {column!r}", rule, shown, remedy))

    def _listed(self, line: int, column: str, value: str, remedy: str) -> object:
        """Parse a text that is a JSON list; return any other text as the only item of a list, as in triples.

        Raises:
            DataError: if the text looks like a list but is not valid JSON, in a file whose values are all text.
        """
        if not value.lstrip().startswith("["):
            return [value]
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list) and all(isinstance(text, str | None) for text in found):
            return found
        if self._from_text and re.match(r"""\s*\[\s*["']""", value):  # broken JSON, or a list in Python's notation
            raise self._wrong(line, column, "be a JSON list of texts", value, remedy)
        return [value]

    def _label(self, line: int, record: Record) -> float:
        column = self._config.label_column
        value = self._value(line, record, "label_column", column)
        try:
            if self._from_text and value.strip().lower() in ("true", "false"):  # as pandas writes booleans
                value = value.strip().lower() == "true"
            number = float(value) if self._from_text or not isinstance(value, str) else math.nan
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= HIGHEST_GRADE:
            rule = f"be a number from -{HIGHEST_GRADE} to {HIGHEST_GRADE}"
            raise self._wrong(line, column, rule, value, "Write 0 or 1, or a grade.")
        return number

    def _negatives(self, line: int, record: Record) -> list[str]:
        column, remedy = self._config.negatives_column, 'Write ["passage", …].'
        value = self._value(line, record, "negatives_column", column)
        if value is None or value == "":
            return []
        if isinstance(value, str):
            value = self._listed(line, column, value, remedy)
        if not isinstance(value, list):
            raise self._wrong(line, column, "be a text or a list of texts", value, remedy)
        if strange := [text for text in value if not isinstance(text, str | None)]:
            raise self._wrong(line, column, "hold only texts", strange[0], remedy)
        kept = [mended(text, self.counts) for text in value if text is not None and fold(text)]
        self.counts["blank_negatives_dropped"] += len(value) - len(kept)
        return kept
