"""Check question/answer rows one by one and collect them as columns. Knows keys and types; reads no files."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

from pipeline.config.data import DataConfig, Format
from pipeline.core.errors import DataError, must
from pipeline.core.records import PairRows, encodable, fold
from pipeline.data.tables import Record
from pipeline.data.trec import HIGHEST_GRADE
from pipeline.data.unread_columns import UnreadColumns

PUT_RIGHT = {
    "texts_with_nul": "texts with NUL (now a space)",
    "texts_with_lone_surrogate": "texts with half a surrogate pair (now U+FFFD)",
    "blank_negatives_dropped": "blank negatives (dropped)",
    "rows_without_group": "rows without a group (now each in its own)",
}
"""Name of a count of repairs in rows that are kept → its wording in the log."""


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
    """Collects rows in order: `rows` holds the columns so far, `counts` what was repaired, `unread` what is not read.

    Errors name `source`. With `from_text`, every value is text, even numbers and lists (CSV).
    """

    def __init__(self, config: DataConfig, source: str, *, from_text: bool) -> None:
        self._config, self._source, self._from_text = config, source, from_text
        self.unread = UnreadColumns(config, source)
        self.counts: Counter[str] = Counter()
        labelled, listed = config.format is Format.labelled, config.format is Format.negatives
        grouped = config.group_column is not None
        self.rows = PairRows(
            [], [], [], [] if labelled else None, [] if listed else None, groups=[] if grouped else None
        )

    def add(self, line: int, record: Record) -> None:
        """Add one row.

        Raises:
            DataError: if a key is missing, a value has the wrong type, or `unread` refuses a column.
        """
        config, rows = self._config, self.rows
        self.unread.note(record)
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
