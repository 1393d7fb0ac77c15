"""Read rows of CSV and TSV files, and notice the rows that a stray quote joined. Knows nothing of what columns mean."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DataError, must
from pipeline.data.tables import Record, Wanted, check_columns, decoded_lines

log = logging.getLogger(__name__)

_LONGEST_FIELD = 2**31 - 1
_NOTABLE_SHARE, _NOTABLE_LINES, _FEWEST_LINES = 0.01, 11, 3
"""Lines that look like rows are warned of from this share of the rows or this number on, but never below the last,
which is also the fewest lines of a field that are counted."""

_FEWEST_BETWEEN_COMMAS = 10
"""The fewest lines of a field that are counted in a file of two columns with commas."""


def csv_records(path: Path, delimiter: str, wanted: Wanted) -> Iterator[tuple[int, Record]]:
    """Yield each row of a CSV file with a header, after the number of the line where it starts.

    Quoted fields may hold line breaks. Warns at the end of many lines in fields that look like rows.

    Raises:
        DataError: if the file cannot be read, is not valid CSV or lacks a wanted column, or a row has too few or many
        fields.
    """
    reader = csv.reader((line for _, line in decoded_lines(path)), delimiter=delimiter, strict=True)
    kind = "TSV" if delimiter == "\t" else "CSV"
    before = csv.field_size_limit(_LONGEST_FIELD)
    start, joined = 1, _JoinedLines(delimiter)
    try:
        named = (names for names in reader if any(name.strip() for name in names))  # skips blank lines
        header = [name.strip() for name in next(named, [])]
        if not header:
            raise DataError(
                must(str(path), "hold rows", "an empty file", "Write a header line, then one row per line.")
            )
        check_columns(f"{path}, line {reader.line_num}", wanted, header, delimiter)
        start = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(header):
                got = f"{len(values)}: {delimiter.join(values)[:80]!r}"
                remedy = f"Quote a field that holds the separator, or save the file again as {kind}."
                raise DataError(must(f"{path}, line {start}", f"have {len(header)} fields", got, remedy))
            if reader.line_num > start:
                joined.count(values, start)
            if values:
                joined.rows += 1
                yield start, dict(zip(header, values, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise _broken(f"{path}, line {start}", kind, str(error), reader.line_num - start) from None
    finally:
        csv.field_size_limit(before)
        joined.warn(path)


@dataclass(slots=True)
class _JoinedLines:
    """Lines within quoted fields: a quote that opens a field joins all lines up to the next quote.

    A line looks like a row if it has as many delimiters as one. Such lines are counted only in fields of several lines
    that break nowhere else: of many where there are two columns with commas, since lines of prose often have one.
    """

    delimiter: str
    rows: int = 0
    lines: int = 0
    fields: int = 0
    like_rows: int = 0
    first_line: int = 0

    def count(self, values: list[str], start: int) -> None:
        """Count the lines within the fields of a row that starts at line `start`."""
        fewest = _FEWEST_BETWEEN_COMMAS if self.delimiter == "," and len(values) == 2 else _FEWEST_LINES
        for later in (value.split("\n")[1:] for value in values if "\n" in value):
            whole = [line.count(self.delimiter) == len(values) - 1 for line in later]
            self.lines += len(later)
            if all(whole[:-1]) and len(whole) >= fewest:
                self.fields += 1
                self.like_rows += sum(whole)
                self.first_line = self.first_line or start

    def warn(self, path: Path) -> None:
        """Warn if most of the lines, and not few, look like rows."""
        fewest = max(_FEWEST_LINES, min(self.rows * _NOTABLE_SHARE, _NOTABLE_LINES))
        if self.like_rows >= fewest and self.like_rows > self.lines / 2:
            log.warning(
                "%s: %d lines within %s look like rows, the first from line %d on; they are read as text. If they are "
                'rows, remove the quotes around them, or write "" for a quote within a quoted field',
                path, self.like_rows, "a quoted field" if self.fields == 1 else f"{self.fields} quoted fields",
                self.first_line,
            )  # fmt: skip


def _broken(row: str, kind: str, error: str, further: int) -> DataError:
    """Return the error for the row that starts at `row`, which the parser noticed `further` lines later."""
    if error.startswith("new-line character"):
        remedy = "Save the file with LF or CRLF line ends, and quote a field that holds a CR."
        return DataError(must(row, "end in LF or CRLF", "a lone CR outside quotes", remedy))
    # A quote that is never closed swallows all that follows, so the error names the line where its row starts.
    got = f"{error}, {further} line{'s' * (further > 1)} further on" if further > 0 else error
    return DataError(must(row, f"be valid {kind}", got, f"Repair its quotes, or save the file again as {kind}."))
