"""Refuse or warn of columns that `data.format=pairs` does not read although they may say which answers are wrong."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from pipeline.config.data import DataConfig, Format
from pipeline.core.errors import DataError, must
from pipeline.data.tables import Record

log = logging.getLogger(__name__)

_LABELS = """labels relevance relevant is_relevant rel score grade rating stars judgement judgment correct is_correct
    accepted is_accepted click clicks clicked is_clicked target y"""
USUAL_NAMES = {
    **dict.fromkeys(_LABELS.split(), "label"),
    **dict.fromkeys(("negative", "hard_negative", "hard_negatives", "neg"), "negatives"),
}
"""Usual names of columns that say which answers are wrong → what they hold. Such a column may mean something else."""

GRADES = {0, 1, 2, 3, 4}
"""Values of a column that is taken for judgements whatever its name, if 0 and another one occur."""

FEW_VALUES = 20
"""A column is watched until it has more distinct values than this: so many are texts, numbers or ids."""


class UnreadColumns:
    """Watches a source's columns that `data.format=pairs` does not read; in other formats it watches none.

    A column that `data.label_column` or `data.negatives_column` names is refused. For others, `note` collects values
    and `warn` judges them at the end. Messages name `source`.
    """

    def __init__(self, config: DataConfig, source: str) -> None:
        self._source, self._is_watching = source, config.format is Format.pairs
        self._threshold = config.positive_threshold
        label, negatives = config.label_column, config.negatives_column
        remedy = "Pass data.format=%s, or data.%s=<another name> if it means something else."
        self._remedies = {label: remedy % ("labelled", "label_column")}
        self._remedies[negatives] = remedy % ("negatives", "negatives_column")
        self._kinds = USUAL_NAMES | {label.lower(): "label", negatives.lower(): "negatives"}
        # Columns that are read, or that have too many values for judgements.
        self._settled: set[str | None] = {config.question_column, config.answer_column, config.group_column}
        self._values: dict[str, set[Any]] = {}  # column → distinct values, up to one more than FEW_VALUES

    def watches(self, column: str, is_number: bool) -> bool:
        """Return whether `note` needs a column's values: it is refused, or may still be one of judgements.

        A column of negatives is warned of by its name alone, so that its long texts need not be read.
        """
        if not self._is_watching or column in self._settled:
            return False
        kind = self._kinds.get(column.lower())
        if kind == "negatives" and not is_number and column not in self._remedies:
            self._values.setdefault(column, set())
            return False
        return is_number or kind is not None or column in self._remedies

    def note(self, record: Record) -> None:
        """Note a row's values in the columns that are watched.

        Raises:
            DataError: if the row has a column that is refused.
        """
        if not self._is_watching:
            return
        for column in [column for column in record if column not in self._settled]:
            if column in self._remedies:
                rule = f"read the column {column!r} of {self._source}"
                raise DataError(must("data.format", rule, "'pairs'", self._remedies[column]))
            values, value = self._values.setdefault(column, set()), record[column]
            if value == value:  # NaN differs from itself
                values.add(str(value) if isinstance(value, list | dict) else value)
            if len(values) > FEW_VALUES:
                self._settled.add(column)

    def warn(self) -> None:
        """Warn about columns whose names or values suggest that they say which answers are wrong."""
        kinds = {column: self._kinds.get(column.lower()) for column in self._values}
        labels = [c for c, values in self._values.items() if _may_judge(values, is_named=kinds[c] == "label")]
        labels.sort(key=lambda column: kinds[column] != "label")
        negatives = [column for column, kind in kinds.items() if kind == "negatives" and column not in labels]
        message = "%s: ignored %s, so every row counts as a right answer. If it marks wrong ones, %s"
        if labels:
            log.warning(message, self._source, ", ".join(map(repr, labels)), self._label_remedy(labels))
        if negatives:
            remedy = f"pass data.format=negatives data.negatives_column={negatives[0]}"
            log.warning(message, self._source, ", ".join(map(repr, negatives)), remedy)

    def _label_remedy(self, columns: Sequence[str]) -> str:
        """Return how to read labels from the first of `columns` that holds numbers, else from the first."""
        numbers = {column: _numbers(self._values[column]) for column in columns}
        column = next((column for column in columns if None not in numbers[column]), columns[0])
        remedy = f"pass data.format=labelled data.label_column={column}"
        given = [number for number in numbers[column] if number is not None]
        if len(given) < len(numbers[column]):
            return f"write 0 or 1 in place of the texts and {remedy}"
        may_reach = column in self._settled or max(given) >= self._threshold  # settled: not all values were seen
        return remedy if may_reach else f"{remedy} data.positive_threshold=<lowest right value>"


def _may_judge(values: Collection[Any], *, is_named: bool) -> bool:
    """Return whether a column, by its distinct values, may say which answers are wrong.

    With a usual name (`is_named`) it may if it holds different numbers, zeros, or few different texts. With any other
    name it may only if it holds nothing but grades, zero among them.
    """
    given = _numbers(values)
    if is_named:
        return len(values) <= FEW_VALUES if None in given else len(given) > 1 or 0 in given
    return 0 in given and len(given) > 1 and given <= GRADES


def _numbers(values: Collection[Any]) -> set[float | None]:
    """Return the values that are neither null nor blank, None for one that is no number."""
    return {_number(value) for value in values if value not in (None, "")}


def _number(value: Any) -> float | None:
    """Return a value as a number, also where it is text; None if it is none."""
    try:
        return float({"true": 1, "false": 0}.get(str(value).strip().lower(), value))
    except (TypeError, ValueError, OverflowError):
        return None
