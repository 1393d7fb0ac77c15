"""Question/answer rows from files: JSON lines, CSV, TSV, Parquet, BEIR folders, data sets of the hub already here.

Every refusal names file, line (1-based), key and remedy. Knows nothing of splits or of what rows are used for.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.data import DataConfig, Format
from pipeline.core.errors import DataError, must
from pipeline.core.records import PairRows
from pipeline.data.beir import TRAIN_QRELS_FILES, read_beir
from pipeline.data.tables import Record, csv_records, hub_records, json_objects, parquet_records
from pipeline.data.trec import HIGHEST_GRADE

log = logging.getLogger(__name__)

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
CSV_SUFFIXES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET_SUFFIXES = (".parquet", ".pq")
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")

BLANK, REPEATED = "corpus_passages_without_text", "corpus_passages_with_an_earlier_text"
"""Counted of a corpus, which is searched by distinct texts."""


@dataclass(slots=True)
class Source:
    """Rows as loaded, the corpus a source brings with it, and what was put right while reading."""

    rows: PairRows
    corpus: list[str] | None = None
    corpus_ids: list[str] | None = None
    counts: Counter[str] = field(default_factory=Counter)


class _Builder:
    """Checks one row after another and gathers the columns."""

    def __init__(self, config: DataConfig, source: str, *, from_text: bool) -> None:
        self._config, self._source, self._from_text = config, source, from_text
        self.counts: Counter[str] = Counter()
        labelled, listed = config.format is Format.labelled, config.format is Format.negatives
        grouped = config.group_column is not None
        self.rows = PairRows(
            [], [], [], [] if labelled else None, [] if listed else None, groups=[] if grouped else None
        )

    def add(self, line: int, record: Record) -> None:
        """Take one row in.

        Raises:
            DataError: for a missing key or a value of the wrong type.
        """
        config, rows = self._config, self.rows
        rows.questions.append(self._text(line, record, "question_column", config.question_column))
        rows.answers.append(self._text(line, record, "answer_column", config.answer_column))
        rows.lines.append(line)
        if rows.labels is not None:
            rows.labels.append(self._label(line, record))
        if rows.negatives is not None:
            rows.negatives.append(self._negatives(line, record))
        if rows.groups is not None and config.group_column is not None:
            group = self._value(line, record, "group_column", config.group_column)
            rows.groups.append(f"row {line}" if group is None else str(group))

    def _value(self, line: int, record: Record, key: str, column: str) -> Any:
        if column not in record:
            got = ", ".join(map(str, record)) or "no key"
            remedy = f"Name the key that holds it: data.{key}=<key>."
            raise DataError(must(f"{self._source}, line {line}", f"have the key {column!r}", got, remedy))
        return record[column]

    def _wrong(self, line: int, column: str, rule: str, value: object, remedy: str) -> DataError:
        shown = f"{type(value).__name__} {json.dumps(value, default=str)[:80]}"
        return DataError(must(f"{self._source}, line {line}, key {column!r}", rule, shown, remedy))

    def _text(self, line: int, record: Record, key: str, column: str) -> str:
        value = self._value(line, record, key, column)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(line, column, "be text", value, f"Write it as a string, or name another key: data.{key}.")
        return self._encodable(value)

    def _encodable(self, text: str) -> str:
        """The text with half surrogate pairs (cut emoji) as U+FFFD and NULs as spaces; both are counted."""
        if "\0" in text:
            self.counts["texts_with_nul"] += 1
            text = text.replace("\0", " ")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                self.counts["texts_with_lone_surrogate"] += 1
                text = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
        return text

    def _label(self, line: int, record: Record) -> float:
        column = self._config.label_column
        value = self._value(line, record, "label_column", column)
        try:
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
        if self._from_text and isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise self._wrong(line, column, "be a JSON list of texts", value, remedy) from None
        if value is None or value == "":
            return []
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self._wrong(line, column, "be a list of texts", value, remedy)
        kept = [self._encodable(text) for text in value if text.strip()]
        self.counts["blank_negatives_dropped"] += len(value) - len(kept)
        return kept


def read(path: Path, config: DataConfig, qrels_files: Sequence[str] = TRAIN_QRELS_FILES) -> Source:
    """Rows of a file (by its suffix) or of a BEIR folder, the first `data.rows` of them.

    A folder's judgements are the first of `qrels_files`.

    Raises:
        DataError: in one sentence, for whatever keeps the rows from being read.
    """
    if config.format is Format.beir:
        return _beir(path, config, qrels_files)
    if path.is_dir():
        remedy = "Name one file, or pass data.format=beir for a folder in the BEIR layout."
        raise DataError(must(str(path), "be a file", "a folder", remedy))
    if not path.exists():
        raise DataError(must(str(path), "exist", "nothing there", "Correct data.path (or data.dev_path)."))
    suffix = path.suffix.lower()
    if suffix in JSON_SUFFIXES:
        records = json_objects(path)
    elif suffix in CSV_SUFFIXES:
        records = csv_records(path, CSV_SUFFIXES[suffix], wanted_columns(config))
    elif suffix in PARQUET_SUFFIXES:
        records = parquet_records(path, wanted_columns(config))
    else:
        known = ", ".join((*JSON_SUFFIXES, *CSV_SUFFIXES, *PARQUET_SUFFIXES))
        remedy = "Unpack it first." if suffix in PACKED_SUFFIXES else "Rename or convert the file."
        raise DataError(must(str(path), f"end in one of {known}", suffix or "no suffix", remedy))
    return _gather(records, _Builder(config, str(path), from_text=suffix in CSV_SUFFIXES), str(path), config)


def _gather(records: Iterator[tuple[int, Record]], builder: _Builder, source: str, config: DataConfig) -> Source:
    for line, record in records:
        builder.add(line, record)
        if len(builder.rows) == config.rows:
            break
    if not len(builder.rows):
        raise DataError(must(source, "hold rows", "an empty file", "Write one question and answer a line."))
    return Source(builder.rows, counts=+builder.counts)


def wanted_columns(config: DataConfig) -> dict[str, str]:
    """The columns a row must have: configuration key → column name."""
    wanted = {"question_column": config.question_column, "answer_column": config.answer_column}
    if config.format is Format.labelled:
        wanted["label_column"] = config.label_column
    if config.format is Format.negatives:
        wanted["negatives_column"] = config.negatives_column
    if config.group_column is not None:
        wanted["group_column"] = config.group_column
    return wanted


def read_hub(folder: Path, config: DataConfig, cache: Path) -> Source:
    """Rows of a data set repository's local copy, the first `data.rows` of `data.split`, read by `datasets`.

    Raises:
        DataError: when it holds no such configuration, split or column, or a value of the wrong type.
    """
    source = f"{config.path} ({folder})"
    records = hub_records(folder, wanted_columns(config), source, subset=config.subset, split=config.split, cache=cache)
    return _gather(records, _Builder(config, source, from_text=False), source, config)


def _beir(folder: Path, config: DataConfig, qrels_files: Sequence[str]) -> Source:
    """Judged positives of a BEIR folder as rows, query by query; the collection's passages as the corpus."""
    collection = read_beir(folder, files=qrels_files, with_run=False)
    rows, grades = PairRows([], [], [], question_ids=[]), list[float]()
    for query, text in collection.queries.items():
        for passage, grade in collection.qrels.get(query, {}).items():
            if grade >= config.positive_threshold:
                rows.questions.append(text)
                rows.answers.append(collection.passages[passage])
                rows.lines.append(len(rows.lines) + 1)
                grades.append(float(grade))
                assert rows.question_ids is not None
                rows.question_ids.append(query)
    if not len(rows):
        remedy = "Lower data.positive_threshold."
        rule = f"judge a passage at least data.positive_threshold={config.positive_threshold:g}"
        raise DataError(must(str(folder), rule, "none", remedy))
    if any(grade != 1.0 for grade in grades):
        rows.labels = grades  # a dev set keeps them; where a grade is above 1, training takes them as positive or not
    first: dict[str, str] = {}
    for passage, text in collection.passages.items():
        first.setdefault(text, passage)
    if config.rows is not None:
        rows = rows.take(list(range(min(config.rows, len(rows)))))
    repeated = Counter({REPEATED: len(collection.passages) - len(first)})
    return Source(rows, list(first), list(first.values()), +repeated)


def read_corpus(path: Path, config: DataConfig) -> tuple[list[str], list[str] | None, Counter[str]]:
    """Passages of a JSON-lines file (key `text`, else the answer column) distinct by text, and their `_id`s or `id`s.

    A title, where there is one, stands before the text as in BEIR. Ids are given back only when every passage has one.
    Counted is what was left out, and texts that were put right.

    Raises:
        DataError: for a line without text, an id twice, or no passage at all.
    """
    first: dict[str, str | None] = {}
    seen: set[str] = set()
    builder = _Builder(config, str(path), from_text=False)
    counts = builder.counts
    for line, record in json_objects(path):
        column = "text" if "text" in record else config.answer_column
        text = builder._text(line, record, "answer_column", column)
        title = builder._text(line, record, "answer_column", "title") if column == "text" and "title" in record else ""
        text = f"{title} {text}".strip()
        identifier = record.get("_id", record.get("id"))
        if identifier is not None:
            if str(identifier) in seen:
                raise DataError(must(f"{path}, line {line}", "have an id of its own", str(identifier), "Rename it."))
            seen.add(str(identifier))
        if not text:
            counts[BLANK] += 1
        elif text in first:
            counts[REPEATED] += 1
        else:
            first[text] = None if identifier is None else str(identifier)
    if not first:
        raise DataError(must(str(path), "hold passages", "none", 'Write {"text": …} on each line (data.corpus_path).'))
    ids = [identifier for identifier in first.values() if identifier is not None]
    left_out = "%s: %d passages to search; left out: %d without text, %d with an earlier text"
    log.info(left_out, path, len(first), counts[BLANK], counts[REPEATED])
    return list(first), ids if len(ids) == len(first) else None, +counts
