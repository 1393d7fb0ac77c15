"""Read question/answer rows from JSON lines, CSV, TSV, Parquet, BEIR folders and local copies of hub data sets.

Every error names file, line (1-based), key and remedy. Knows nothing of splits or of what rows are used for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline.config.data import DataConfig, Format
from pipeline.core.errors import DataError, must
from pipeline.core.progress import counted
from pipeline.core.records import PairRows
from pipeline.data.beir import TRAIN_QRELS_FILES, read_beir
from pipeline.data.own_corpus import REPEATED
from pipeline.data.row_builder import RowBuilder
from pipeline.data.tables import (
    CSV_SUFFIXES,
    PARQUET_SUFFIXES,
    Record,
    csv_records,
    hub_records,
    json_objects,
    parquet_records,
)

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
SHEET_SUFFIXES = (".xlsx", ".xls", ".ods")
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")


@dataclass(slots=True)
class Loaded:
    """Rows as loaded, the source's own corpus if it has one, and counts of repairs while reading."""

    rows: PairRows
    corpus: list[str] | None = None
    corpus_ids: list[str] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    aliases: dict[str, str] = field(default_factory=dict)
    """Id of a passage that repeats an earlier text → the earlier id."""


def read(path: Path, config: DataConfig, qrels_files: Sequence[str] = TRAIN_QRELS_FILES) -> Loaded:
    """Read the first `data.rows` rows of a file, whose format follows from its suffix, or of a BEIR folder.

    A folder's judgements are the first of `qrels_files` that exists.

    Raises:
        DataError: if the rows cannot be read, with the reason in one sentence.
    """
    if config.format is Format.beir:
        return _beir(path, config, qrels_files)
    if path.is_dir():
        remedy = "Name one file, or pass data.format=beir for a folder in the BEIR layout."
        raise DataError(must(str(path), "be a file", "a folder", remedy))
    if not path.exists():
        raise DataError(must(str(path), "exist", "nothing there", "Correct data.path (or data.dev_path)."))
    suffix = path.suffix.lower()
    builder = RowBuilder(config, str(path), from_text=suffix in CSV_SUFFIXES)
    if suffix in JSON_SUFFIXES:
        records = json_objects(path)
    elif suffix in CSV_SUFFIXES:
        records = csv_records(path, CSV_SUFFIXES[suffix], wanted_columns(config))
    elif suffix in PARQUET_SUFFIXES:
        records = parquet_records(path, wanted_columns(config), builder.watches)
    else:
        known = ", ".join((*JSON_SUFFIXES, *CSV_SUFFIXES, *PARQUET_SUFFIXES))
        remedy = "Unpack it first." if suffix in PACKED_SUFFIXES else "Rename or convert the file."
        if suffix in SHEET_SUFFIXES:
            remedy = "Save the sheet as CSV in UTF-8."
        raise DataError(must(str(path), f"end in one of {known}", repr(suffix) if suffix else "no suffix", remedy))
    return _gather(records, builder, str(path), config)


def _gather(records: Iterator[tuple[int, Record]], builder: RowBuilder, source: str, config: DataConfig) -> Loaded:
    for line, record in counted(islice(records, config.rows), "reading rows"):
        builder.add(line, record)
    builder.say_unread()
    if not len(builder.rows):
        raise DataError(must(source, "hold rows", "an empty file", "Write one question and answer per line."))
    return Loaded(builder.rows, counts=+builder.counts)


def wanted_columns(config: DataConfig) -> dict[str, str]:
    """Return the columns that a row must have: configuration key → column name."""
    wanted = {"question_column": config.question_column, "answer_column": config.answer_column}
    if config.format is Format.labelled:
        wanted["label_column"] = config.label_column
    if config.format is Format.negatives:
        wanted["negatives_column"] = config.negatives_column
    if config.group_column is not None:
        wanted["group_column"] = config.group_column
    return wanted


def read_hub(folder: Path, config: DataConfig, cache: Path) -> Loaded:
    """Read the first `data.rows` rows of `data.split` from the local copy of a hub data set, with `datasets`.

    Raises:
        DataError: if the configuration, the split or a column does not exist, or a value has the wrong type.
    """
    source = f"{config.path} ({folder})"
    builder = RowBuilder(config, source, from_text=False)
    records = hub_records(
        folder, wanted_columns(config), source, subset=config.subset, split=config.split, cache=cache,
        also=builder.watches,
    )  # fmt: skip
    return _gather(records, builder, source, config)


def _beir(folder: Path, config: DataConfig, qrels_files: Sequence[str]) -> Loaded:
    """Read the judged positives of a BEIR folder as rows, query by query, and its passages as the corpus."""
    collection = read_beir(folder, files=qrels_files, is_measured=False)
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
        rows.labels = grades  # a dev set keeps the grades; training binarises them if any is above 1
    first: dict[str, str] = {}
    for passage, text in collection.passages.items():
        first.setdefault(text, passage)
    if config.rows is not None:
        rows = rows.take(list(range(_whole(rows.question_ids or [], config.rows))))
    repeated = Counter({REPEATED: len(collection.passages) - len(first)})
    aliases = {passage: first[text] for passage, text in collection.passages.items() if first[text] != passage}
    return Loaded(rows, list(first), list(first.values()), +repeated, aliases)


def _whole(questions: Sequence[str], most: int) -> int:
    """Return how many of the first `most` rows to keep so that no question is cut; a question's rows are adjacent."""
    if most >= len(questions):
        return len(questions)
    while most and questions[most - 1] == questions[most]:
        most -= 1
    return most
