"""Read lines of text files, objects of JSON-lines files, and rows of CSV, TSV and Parquet files and of `datasets`.

Checks that the file can be read and has the wanted columns; knows nothing of what they mean.
"""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.core.errors import DataError, first_line, must, named, raise_shortage

log = logging.getLogger(__name__)

Record = dict[str, Any]
"""One row, column name → value as the file holds it."""

Wanted = dict[str, str]
"""Configuration key (`answer_column`) → name of the column that must exist."""

CSV_SUFFIXES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET_SUFFIXES = (".parquet", ".pq")

_LONGEST_FIELD = 2**31 - 1
_BATCH = 50_000
_NOTABLE_SHARE, _FEWEST_JOINED = 0.01, 10


def _check_columns(source: str, wanted: Wanted, present: list[str], separator: str = "") -> None:
    """Refuse a table that lacks a wanted column or has it twice; `separator` is the delimiter of a text file."""
    for key, column in wanted.items():
        if present.count(column) > 1:
            remedy = f"Rename one of them, or name another: data.{key}=<column>."
            raise DataError(
                must(source, f"have the column {column!r} once", f"{present.count(column)} of them", remedy)
            )
        if column not in present:
            got = f"the columns {', '.join(map(repr, present))}"
            remedy = f"Name it: data.{key}=<column>."
            other = next((mark for mark in ";\t|," if mark != separator and mark in present[0]), None)
            if separator and len(present) == 1 and other is not None:
                remedy = f"They are separated by {other!r}: save the file with commas, or with tabs as .tsv."
            elif separator:
                remedy += " The first line must name the columns."
            raise DataError(must(source, f"have the column {column!r}", got, remedy))


def csv_records(path: Path, delimiter: str, wanted: Wanted) -> Iterator[tuple[int, Record]]:
    """Yield each row of a CSV file with a header, after the number of the line where it starts.

    Quoted fields may hold line breaks. Warns at the end of many lines in fields that look like rows.
    """
    reader = csv.reader((line for _, line in decoded_lines(path)), delimiter=delimiter, strict=True)
    kind = "TSV" if delimiter == "\t" else "CSV"
    before = csv.field_size_limit(_LONGEST_FIELD)
    start, spans = 1, Counter[str]()
    try:
        named = (names for names in reader if any(name.strip() for name in names))  # skips blank lines
        header = [name.strip() for name in next(named, [])]
        if not header:
            raise DataError(
                must(str(path), "hold rows", "an empty file", "Write a header line, then one row per line.")
            )
        _check_columns(f"{path}, line {reader.line_num}", wanted, header, delimiter)
        start = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(header):
                got = f"{len(values)}: {delimiter.join(values)[:80]!r}"
                remedy = f"Quote a field that holds the separator, or save the file again as {kind}."
                raise DataError(must(f"{path}, line {start}", f"have {len(header)} fields", got, remedy))
            if reader.line_num > start:
                _count_lines(spans, values, delimiter, start)
            if values:
                spans["rows"] += 1
                yield start, dict(zip(header, values, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise _broken(f"{path}, line {start}", kind, str(error), reader.line_num - start) from None
    finally:
        csv.field_size_limit(before)
        _say_joined(path, spans)


def _count_lines(spans: Counter[str], values: list[str], delimiter: str, start: int) -> None:
    """Count the lines within the fields of a row, and those that look like rows: they have as many delimiters as one.

    The latter are counted only in fields that break lines nowhere else, so paragraphs of prose rarely count.
    """
    for later in (value.split("\n")[1:] for value in values if "\n" in value):
        whole = [line.count(delimiter) == len(values) - 1 for line in later]
        spans["lines"] += len(later)
        if all(whole[:-1]) and any(whole):
            spans["fields"] += 1
            spans["like rows"] += sum(whole)
            spans["first"] = spans["first"] or start


def _say_joined(path: Path, spans: Counter[str]) -> None:
    """Warn if most lines within fields look like rows: a quote that opens a field joins all lines up to the next."""
    if spans["like rows"] > max(spans["lines"] / 2, spans["rows"] * _NOTABLE_SHARE, _FEWEST_JOINED):
        log.warning(
            "%s: %d quoted fields hold %d lines that look like rows, the first from line %d on; they are read as text. "
            'If they are rows, remove the quotes around them, or write "" for a quote within a quoted field',
            path, spans["fields"], spans["like rows"], spans["first"],
        )  # fmt: skip


def _broken(row: str, kind: str, error: str, further: int) -> DataError:
    """Return the error for the row that starts at `row`, which the parser noticed `further` lines later."""
    if error.startswith("new-line character"):
        remedy = "Save the file with LF or CRLF line ends, and quote a field that holds a CR."
        return DataError(must(row, "end in LF or CRLF", "a lone CR outside quotes", remedy))
    # A quote that is never closed swallows all that follows, so the error names the line where its row starts.
    got = f"{error}, {further} line{'s' * (further > 1)} further on" if further > 0 else error
    return DataError(must(row, f"be valid {kind}", got, f"Repair its quotes, or save the file again as {kind}."))


def _not_utf8(path: Path, number: int, raw: bytes, error: UnicodeDecodeError) -> DataError:
    """Return the error for a line that is not UTF-8. A compressed file is recognised by its first bytes."""
    packed = number == 1 and raw.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
    remedy = "It is compressed: unpack it first." if packed else "Save the file as UTF-8."
    if packed and raw.startswith(b"PK"):
        remedy = "It is compressed, or a spreadsheet: unpack it, or save the sheet as CSV in UTF-8."
    return DataError(must(f"{path}, line {number}", "be UTF-8", str(error), remedy))


def decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of each line with its end; only LF ends a line. Drop a byte order mark.

    Lines are decoded one by one, so that the error for an invalid byte can name its line.

    Raises:
        DataError: if the file cannot be read or a line is not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise _not_utf8(path, number, raw, error) from None
    except FileNotFoundError:
        raise DataError(must(str(path), "exist", "nothing there", "Check the path.")) from None
    except OSError as error:
        raise DataError(must(str(path), "be a readable file", error, "Check the path and its permissions.")) from None


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of each line that is not blank, without its end; raise as `decoded_lines` does."""
    for number, line in decoded_lines(path):
        if line.strip():
            yield number, line.rstrip("\r\n")


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line of a JSON-lines file, skipping blank lines.

    Raises:
        DataError: if the file cannot be read or is CSV or Parquet, or a line is not UTF-8 or not one JSON object.
    """
    if (suffix := path.suffix.lower()) in (*CSV_SUFFIXES, *PARQUET_SUFFIXES) and path.is_file():
        remedy = 'Only JSONL is read here: write {"text": …} on each line.'
        raise DataError(must(str(path), "be JSONL", f"a {suffix} file", remedy))
    for number, line in text_lines(path):
        thing, shown = f"{path}, line {number}", repr(line[:80])
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if line.strip() not in ("[", "[{", "{"):  # one array or object over many lines: this line is not at fault
                raise DataError(must(thing, "be one JSON object", f"{shown} ({error})", "Repair the line.")) from None
            value = None
        if not isinstance(value, dict):
            remedy = 'Write {"key": value, …} on each line.'
            if line.lstrip().startswith("["):
                remedy = f"Write one object per line: jq -c '.[]' {path.name} > {path.stem}-lines.jsonl"
            raise DataError(must(thing, "be one JSON object", shown, remedy))
        yield number, value


Also = Callable[[str, bool], bool]
"""Whether to read a column that is not wanted, by its name and whether it holds numbers or booleans."""


def _may_count(column: Any) -> bool:
    """Return whether a column of an Arrow schema holds numbers or booleans."""
    from pyarrow import types

    return bool(types.is_boolean(column.type) or types.is_integer(column.type) or types.is_floating(column.type))


def parquet_records(path: Path, wanted: Wanted, also: Also) -> Iterator[tuple[int, Record]]:
    """Yield the rows of a Parquet file, numbered from 1, with one batch in memory at a time.

    A row has the `wanted` columns and those that `also` chooses, which is asked again for every batch.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(str(path), wanted, list(file.schema_arrow.names))
            others = {column.name: _may_count(column) for column in file.schema_arrow}
            columns = list(dict.fromkeys([*wanted.values(), *(name for name in others if also(name, others[name]))]))
            line = 0
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                columns = [name for name in columns if name in wanted.values() or also(name, others[name])]
                # By position: a column of `also`, which the caller refuses by its name, may occur twice.
                places = [batch.schema.names.index(column) for column in columns]
                values = [batch.column(place).to_pylist() for place in places]
                for row in zip(*values, strict=True):
                    line += 1
                    yield line, dict(zip(columns, row, strict=True))
    except DataError:
        raise
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise_shortage(error)
        got, remedy = first_line(error), "Write the file again."
        raise DataError(must(str(path), "be a readable Parquet file", got, remedy)) from None
    except (OverflowError, ValueError) as error:
        raise _unreadable(str(path), error) from None


def _unreadable(source: str, error: Exception) -> DataError:
    """Return the error for a value that Python cannot represent, such as a date before the year 1 or after 9999."""
    return DataError(must(source, "hold values that Python can read", named(error), "Write such a column as text."))


def hub_records(
    folder: Path,
    wanted: Wanted,
    source: str,
    *,
    subset: str | None,
    split: str,
    cache: Path,
    also: Also,
) -> Iterator[tuple[int, Record]]:
    """Yield the rows of one split, numbered from 1, of the local copy of a hub data set, which `datasets` reads.

    A row has the `wanted` columns and those that `also` chooses. `datasets` writes its converted files below `cache`.
    """
    import datasets

    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        remedy = (
            "Write it as a file, load_from_disk(…).to_parquet('a.parquet'), and pass data=local data.path=a.parquet."
        )
        raise DataError(must(source, "be a data set repository", "a folder made by save_to_disk", remedy))
    try:
        loaded = datasets.load_dataset(str(folder), name=subset, split=split, cache_dir=str(cache / "datasets"))
    except Exception as error:  # datasets raises many unrelated types for what it cannot read
        raise_shortage(error)
        got, remedy = named(error), "Check data.path, data.subset and data.split."
        raise DataError(must(source, f"be a data set with the split {split!r}", got, remedy)) from error
    _check_columns(source, wanted, list(loaded.column_names))
    others = [column.name for column in loaded.features.arrow_schema if also(column.name, _may_count(column))]
    columns = list(dict.fromkeys([*wanted.values(), *others]))
    line = 0
    try:
        for batch in loaded.select_columns(columns).iter(batch_size=_BATCH):
            for row in zip(*(batch[column] for column in columns), strict=True):
                line += 1
                yield line, dict(zip(columns, row, strict=True))
    except (OverflowError, ValueError) as error:
        raise _unreadable(source, error) from None
